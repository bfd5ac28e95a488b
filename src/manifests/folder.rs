//! Files and folders as they are now, with the last good state of what is broken now.
//!
//! It never knows events: it looks when it is asked. `watch` asks after each event, `read` once.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{
    Fault, Severity,
    document::{self, Document, Outcome},
    objects::{Key, Object, Objects, changes},
};
use crate::translate::Change;

/// The files behind some paths.
#[derive(Debug)]
pub(super) struct Folder {
    paths: Vec<PathBuf>,
    files: BTreeMap<PathBuf, File>,
    /// What could not be read at the last look, and why: said once, not at every look.
    unread: BTreeMap<PathBuf, String>,
    sent: Option<Objects>,
}

/// What a look at the files brought.
#[derive(Debug, Default)]
pub(super) struct Scan {
    /// What differs from the last look.
    pub(super) changes: Vec<Change>,
    /// What is wrong in files that differ from the last look.
    pub(super) faults: Vec<Fault>,
}

/// One file as it was last read.
#[derive(Debug, Default)]
struct File {
    text: Option<String>,
    objects: Vec<(Key, usize, Object)>,
}

impl Folder {
    pub(super) fn new(paths: Vec<PathBuf>) -> Self {
        Self { paths, files: BTreeMap::new(), unread: BTreeMap::new(), sent: None }
    }

    /// One file that is only a text.
    pub(super) fn of_text(text: &str) -> (Vec<Change>, Vec<Fault>) {
        let path = PathBuf::from("-");
        let mut faults = Vec::new();
        let mut file = File::default();
        file.update(&path, text.to_owned(), &mut faults);
        let files = BTreeMap::from([(path.clone(), file)]);
        let folder = Self { files, ..Self::new(Vec::new()) };
        (changes(None, &folder.objects(&[path], &mut faults)), faults)
    }

    pub(super) fn paths(&self) -> &[PathBuf] {
        &self.paths
    }

    /// Reads what is there now. What can't be read, be it a whole path, keeps its last good state; a file that is gone from its folder is gone.
    pub(super) fn scan(&mut self) -> Scan {
        let (mut faults, mut unread) = (Vec::new(), BTreeMap::new());
        let listed = self.list(&mut unread);
        self.files.retain(|path, _| listed.contains(path));
        for path in &listed {
            // Said of its folder, or of itself, already.
            if unread.contains_key(path) || path.parent().is_some_and(|folder| unread.contains_key(folder)) {
                continue;
            }
            let file = self.files.entry(path.clone()).or_default();
            match fs::read(path).map(String::from_utf8) {
                Ok(Ok(text)) if file.text.as_ref() == Some(&text) => {}
                Ok(Ok(text)) => file.update(path, text, &mut faults),
                Ok(Err(_)) => drop(unread.insert(path.clone(), "is not UTF-8: save it in that encoding".to_owned())),
                Err(error) => drop(unread.insert(path.clone(), format!("can't be read: {error}"))),
            }
        }
        for (path, reason) in unread.iter().filter(|(path, reason)| self.unread.get(*path) != Some(reason)) {
            let held = self.files.iter().any(|(file, held)| file.starts_with(path) && !held.objects.is_empty());
            let kept = if held { "; what it held stays in force" } else { "" };
            faults.push(fault(path, 1, &format!("{reason}{kept}")));
        }
        self.unread = unread;
        let objects = self.objects(&listed, &mut faults);
        let changes = changes(self.sent.as_ref(), &objects);
        self.sent = Some(objects);
        Scan { changes, faults }
    }

    /// The files: those named, and those of the folders named, one level deep as with `kubectl apply -f`. Of a path that can't be read, a
    /// mount that is away or descriptors that ran out, those that were there: it would take every route with it.
    fn list(&self, unread: &mut BTreeMap<PathBuf, String>) -> Vec<PathBuf> {
        let mut listed: Vec<PathBuf> = Vec::new();
        for path in &self.paths {
            let found = match fs::metadata(path).and_then(|is| if is.is_dir() { manifests_of(path) } else { Ok(vec![path.clone()]) }) {
                Ok(found) => found,
                Err(error) => {
                    unread.insert(path.clone(), format!("can't be read: {error}"));
                    self.files.keys().filter(|file| *file == path || file.parent() == Some(path)).cloned().collect()
                }
            };
            let new: Vec<PathBuf> = found.into_iter().filter(|file| !listed.contains(file)).collect();
            listed.extend(new);
        }
        listed
    }

    /// The objects of all files, in the order of paths, files and documents. Of an object that is there twice the last counts,
    /// as if the files had been applied one after the other.
    fn objects(&self, listed: &[PathBuf], faults: &mut Vec<Fault>) -> Objects {
        let mut objects = Objects::new();
        let mut place = 0;
        for (path, file) in listed.iter().filter_map(|path| self.files.get_key_value(path)) {
            for (key, line, object) in &file.objects {
                place += 1;
                if objects.insert(key.clone(), aged(object.clone(), place)).is_some() && self.sent.is_none() {
                    faults.push(fault(path, *line, &format!("{key} is there twice: this one counts")));
                }
            }
        }
        objects
    }
}

impl File {
    fn update(&mut self, path: &Path, text: String, faults: &mut Vec<Fault>) {
        let documents = document::parse(&text, path);
        self.text = Some(text);
        for document in &documents {
            let severity = if matches!(document.object, Outcome::Skipped) { Severity::Skipped } else { Severity::Wrong };
            faults.extend(document.faults.iter().map(|(line, reason)| Fault { severity, ..fault(path, *line, reason) }));
        }
        // Which object a broken document was can't be told: nothing of the file is taken away or changed, if it was ever good.
        let unknown = documents.iter().any(|document| document.key.is_none() && matches!(document.object, Outcome::Bad));
        if unknown && !self.objects.is_empty() {
            return;
        }
        let last = std::mem::take(&mut self.objects);
        self.objects = documents.into_iter().filter_map(|document| in_force(document, &last)).collect();
    }
}

/// The object of a document; where it is wrong, the last good one of the name, else what is right of it.
fn in_force(document: Document, last: &[(Key, usize, Object)]) -> Option<(Key, usize, Object)> {
    let key = document.key?;
    let good = || last.iter().find(|(known, ..)| *known == key).map(|(.., object)| object.clone());
    let object = match document.object {
        Outcome::Good(object) => Some(object),
        Outcome::Part(object) => good().or(Some(object)),
        Outcome::Bad => good(),
        Outcome::Skipped => None,
    };
    object.map(|object| (key, document.line, object))
}

/// Files have no creationTimestamp: the place of a WsRoute stands for its age, the first one being the oldest.
fn aged(object: Object, place: i64) -> Object {
    match object {
        Object::WsRoute(mut route) => {
            let age = || Time(Timestamp::UNIX_EPOCH.saturating_add(SignedDuration::from_secs(place)).unwrap_or(Timestamp::UNIX_EPOCH));
            route.metadata.creation_timestamp.get_or_insert_with(age);
            Object::WsRoute(route)
        }
        other => other,
    }
}

fn manifests_of(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        // A volume of a ConfigMap holds `..data` and dated folders; editors hold `.name.swp`.
        let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if is_manifest(&path) && !hidden && path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Whether a file of a folder is read.
pub(super) fn is_manifest(path: &Path) -> bool {
    matches!(path.extension().and_then(|extension| extension.to_str()), Some("yaml" | "yml" | "json"))
}

fn fault(path: &Path, line: usize, reason: &str) -> Fault {
    Fault { file: path.to_owned(), line, severity: Severity::Wrong, reason: reason.to_owned() }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::translate::{Event, Kind, objects::Named};

    fn service(name: &str) -> String {
        format!("apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{ports: [{{port: 80}}]}}\n")
    }

    /// The Services of the change that a look brings; `None` where it brings none.
    fn services(folder: &mut Folder) -> Option<Vec<String>> {
        folder.scan().changes.into_iter().find_map(|change| match change {
            Change::Service(Event::Reset(services)) => Some(services.iter().map(|service| service.object_ref().to_string()).collect()),
            _ => None,
        })
    }

    #[test]
    fn the_first_look_lists_every_kind_and_the_next_only_what_differs() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("a.yaml"), service("a")).unwrap();
        let mut folder = Folder::new(vec![root.path().to_owned()]);
        assert_eq!(folder.scan().changes.len(), Kind::ALL.len());
        assert_eq!(folder.scan().changes.len(), 0);
        fs::write(root.path().join("b.yml"), service("b")).unwrap();
        fs::write(root.path().join("notes.txt"), "kind: [").unwrap();
        assert_eq!(services(&mut folder).unwrap(), ["default/a", "default/b"]);
        fs::remove_file(root.path().join("a.yaml")).unwrap();
        assert_eq!(services(&mut folder).unwrap(), ["default/b"]);
    }

    #[test]
    fn a_broken_file_keeps_its_last_good_state() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("a.yaml");
        fs::write(&file, service("a")).unwrap();
        let mut folder = Folder::new(vec![root.path().to_owned()]);
        folder.scan();
        fs::write(&file, format!("{}---\nkind: [", service("b"))).unwrap();
        let scan = folder.scan();
        assert_eq!(scan.changes.len(), 0);
        assert!(scan.faults[0].to_string().starts_with(&format!("{}:", file.display())), "{:?}", scan.faults);
        fs::write(&file, service("b")).unwrap();
        assert_eq!(services(&mut folder).unwrap(), ["default/b"]);
    }

    #[test]
    fn a_broken_object_keeps_its_last_good_state_and_harms_no_other() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("a.yaml");
        fs::write(&file, service("a")).unwrap();
        let mut folder = Folder::new(vec![file.clone()]);
        folder.scan();
        fs::write(&file, format!("{}---\n{}", service("a").replace("80", "eighty"), service("b"))).unwrap();
        assert_eq!(services(&mut folder).unwrap(), ["default/a", "default/b"]);
    }

    #[test]
    fn a_config_map_volume_is_followed_over_its_swap() {
        let root = tempfile::tempdir().unwrap();
        for (version, name) in [("..1", "a"), ("..2", "b")] {
            fs::create_dir(root.path().join(version)).unwrap();
            fs::write(root.path().join(version).join("app.yaml"), service(name)).unwrap();
        }
        symlink("..1", root.path().join("..data")).unwrap();
        symlink("..data/app.yaml", root.path().join("app.yaml")).unwrap();
        let mut folder = Folder::new(vec![root.path().to_owned()]);
        assert_eq!(services(&mut folder).unwrap(), ["default/a"]);
        symlink("..2", root.path().join("..tmp")).unwrap();
        fs::rename(root.path().join("..tmp"), root.path().join("..data")).unwrap();
        assert_eq!(services(&mut folder).unwrap(), ["default/b"]);
    }

    #[test]
    fn a_path_that_is_not_there_is_reported_once() {
        let mut folder = Folder::new(vec!["/nowhere/at/all".into()]);
        let scan = folder.scan();
        assert_eq!(scan.faults.len(), 1);
        assert_eq!(scan.changes.len(), Kind::ALL.len());
        assert_eq!(folder.scan().faults, []);
    }

    #[test]
    fn a_folder_that_goes_away_takes_nothing_with_it() {
        let root = tempfile::tempdir().unwrap();
        let (mounted, away) = (root.path().join("manifests"), root.path().join("away"));
        fs::create_dir(&mounted).unwrap();
        fs::write(mounted.join("a.yaml"), service("a")).unwrap();
        let mut folder = Folder::new(vec![mounted.clone()]);
        assert_eq!(services(&mut folder).unwrap(), ["default/a"]);
        fs::rename(&mounted, &away).unwrap();
        let scan = folder.scan();
        assert_eq!((scan.changes.len(), scan.faults.len()), (0, 1));
        assert!(scan.faults[0].reason.ends_with("what it held stays in force"), "{:?}", scan.faults);
        assert_eq!(folder.scan().faults, []);
        fs::write(away.join("b.yaml"), service("b")).unwrap();
        fs::rename(&away, &mounted).unwrap();
        assert_eq!(services(&mut folder).unwrap(), ["default/a", "default/b"]);
        fs::remove_file(mounted.join("a.yaml")).unwrap();
        assert_eq!(services(&mut folder).unwrap(), ["default/b"]);
    }

    #[test]
    fn a_file_that_can_not_be_read_keeps_its_last_good_state() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("a.yaml");
        fs::write(&file, service("a")).unwrap();
        let mut folder = Folder::new(vec![root.path().to_owned()]);
        folder.scan();
        fs::write(&file, b"kind: \xff").unwrap();
        let scan = folder.scan();
        assert_eq!((scan.changes.len(), scan.faults.len()), (0, 1));
        assert_eq!(folder.scan().faults, []);
    }

    #[test]
    fn the_place_of_a_route_stands_for_its_age() {
        let route = |name: &str| format!("apiVersion: carrick.dev/v1alpha1\nkind: WsRoute\nmetadata: {{name: {name}}}\nspec: {{}}\n");
        let (changes, _) = Folder::of_text(&format!("{}---\n{}", route("z"), route("a")));
        let ages = changes.into_iter().find_map(|change| match change {
            Change::WsRoute(Event::Reset(routes)) => Some(
                routes
                    .into_iter()
                    .map(|read| read.route.metadata)
                    .map(|metadata| (metadata.creation_timestamp, metadata.name.unwrap()))
                    .collect::<Vec<_>>(),
            ),
            _ => None,
        });
        let mut ages = ages.unwrap();
        ages.sort();
        assert_eq!(ages.iter().map(|(_, name)| name.as_str()).collect::<Vec<_>>(), ["z", "a"]);
    }
}
