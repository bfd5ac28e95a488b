//! Looks at the files again whenever the system says that something happened near them.
//!
//! It never knows what is in them. An event is only a reason to look: which one it was does not matter, so that atomic renames,
//! swapped links and editors are all the same.

use std::{
    collections::BTreeSet,
    ffi::OsString,
    path::{Path, PathBuf},
    time::Duration,
};

use notify::{
    Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher,
    event::{AccessKind, AccessMode, ModifyKind},
};
use tokio::{
    sync::mpsc,
    task::spawn_blocking,
    time::{sleep, timeout},
};
use tracing::{info, warn};

use super::{
    Fault, Severity,
    folder::{Folder, Scan, is_manifest},
};
use crate::translate::Change;

/// An editor writes in several steps: one look for all of them.
const QUIET: Duration = Duration::from_millis(50);
/// Network file systems tell nothing, and the kernel's queue may overflow.
const AT_LEAST_EVERY: Duration = Duration::from_secs(10);

/// Sends what the files hold, and again what changes, until nobody listens any more.
///
/// Every kind is listed first, be it empty. A file that is broken is logged, and keeps its last good state.
pub async fn watch(paths: Vec<PathBuf>, changes: mpsc::Sender<Change>) {
    let (happened, mut events) = mpsc::channel(1);
    let named = names(&paths);
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
        if event.map_or(true, |event| is_reason_to_look(&event, &named)) {
            let _ = happened.try_send(()); // full: a look is due anyway
        }
    })
    .map_err(|error| warn!(%error, "can't watch the manifests: they are read every {} s", AT_LEAST_EVERY.as_secs()))
    .ok();
    let mut folder = Folder::new(paths);
    loop {
        // Watched before it is read: what happens in between is an event.
        if let Some(watcher) = &mut watcher {
            watch_around(watcher, &folder);
        }
        let Some((next, scan)) = look(folder).await else { return };
        folder = next;
        for Fault { file, line, severity, reason } in &scan.faults {
            match severity {
                Severity::Wrong => warn!(file = %file.display(), line, "{reason}"),
                Severity::Skipped => info!(file = %file.display(), line, "{reason}"),
            }
        }
        for change in scan.changes {
            if changes.send(change).await.is_err() {
                return;
            }
        }
        tokio::select! {
            _ = timeout(AT_LEAST_EVERY, next_event(&mut events)) => {}
            () = changes.closed() => return,
        }
    }
}

/// What a file is called that was named itself, and what it is called behind its link.
fn names(paths: &[PathBuf]) -> BTreeSet<OsString> {
    let behind = paths.iter().filter_map(|path| path.canonicalize().ok());
    paths.iter().cloned().chain(behind).filter_map(|path| path.file_name().map(OsString::from)).collect()
}

/// Reading a file is an event too: to look again for it would never end. Nor is it a reason what is written to files that are no manifests:
/// our own log may stand beside them.
fn is_reason_to_look(event: &Event, named: &BTreeSet<OsString>) -> bool {
    let ours = |path: &PathBuf| is_manifest(path) || Path::file_name(path).is_some_and(|name| named.contains(name));
    match event.kind {
        EventKind::Modify(ModifyKind::Data(_)) | EventKind::Access(AccessKind::Close(AccessMode::Write)) => event.paths.iter().any(ours),
        EventKind::Access(_) => false,
        _ => true,
    }
}

/// Waits for an event, and for the rest of what belongs to it.
async fn next_event(events: &mut mpsc::Receiver<()>) {
    if events.recv().await.is_none() {
        std::future::pending::<()>().await; // no watcher: the timeout looks
    }
    sleep(QUIET).await;
    while events.try_recv().is_ok() {}
}

/// Watches each folder, and the folder above each path, which sees it come and go. What is watched already stays so.
fn watch_around(watcher: &mut RecommendedWatcher, folder: &Folder) {
    for path in folder.paths() {
        let parent = path.parent().map(|parent| if parent.as_os_str().is_empty() { ".".into() } else { parent.to_owned() });
        let target = path.canonicalize().ok();
        let beside_target = target.as_ref().and_then(|target| target.parent()).map(PathBuf::from);
        let folder = target.filter(|target| target.is_dir());
        for watched in [parent, beside_target, folder].into_iter().flatten() {
            // A folder that is not there yet: the one above tells when it comes.
            let _ = watcher.watch(&watched, RecursiveMode::NonRecursive);
        }
    }
}

/// The disk may be slow, and the control side has other things to do.
async fn look(mut folder: Folder) -> Option<(Folder, Scan)> {
    let looked = spawn_blocking(move || {
        let scan = folder.scan();
        (folder, scan)
    });
    looked.await.ok()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::translate::{Event, objects::Named};

    /// The names of the next list of Services; other kinds are passed over.
    async fn services(changes: &mut mpsc::Receiver<Change>) -> Vec<String> {
        loop {
            if let Change::Service(Event::Reset(services)) = changes.recv().await.unwrap() {
                return services.iter().map(|service| service.object_ref().name.to_string()).collect();
            }
        }
    }

    fn service(name: &str) -> String {
        format!("apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\n")
    }

    #[test]
    fn a_log_beside_the_manifests_is_no_reason_to_look() {
        let written = EventKind::Modify(ModifyKind::Data(notify::event::DataChange::Any));
        let event = |kind: EventKind, path: &str| notify::Event::new(kind).add_path(path.into());
        let named = names(&["/srv/carrick.conf".into()]);
        let looks = |event: notify::Event| is_reason_to_look(&event, &named);
        assert!(!looks(event(written, "/srv/carrick.log")));
        assert!(!looks(event(EventKind::Access(AccessKind::Open(AccessMode::Read)), "/srv/a.yaml")));
        assert!(looks(event(written, "/srv/a.yaml")));
        assert!(looks(event(written, "/srv/carrick.conf")));
        assert!(looks(event(EventKind::Create(notify::event::CreateKind::Any), "/srv/..data")));
    }

    #[tokio::test]
    async fn files_that_change_come_and_go_are_noticed() {
        let root = tempfile::tempdir().unwrap();
        let (sender, mut changes) = mpsc::channel(64);
        let folder = root.path().join("manifests");
        #[allow(clippy::disallowed_methods, reason = "a test owns its tasks")]
        let task = tokio::spawn(watch(vec![folder.clone()], sender));
        assert_eq!(services(&mut changes).await, [""; 0]);
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("a.yaml"), service("a")).unwrap();
        assert_eq!(services(&mut changes).await, ["a"]);
        fs::write(root.path().join("new"), service("b")).unwrap();
        fs::rename(root.path().join("new"), folder.join("a.yaml")).unwrap();
        assert_eq!(services(&mut changes).await, ["b"]);
        fs::remove_file(folder.join("a.yaml")).unwrap();
        assert_eq!(services(&mut changes).await, [""; 0]);
        drop(changes);
        task.await.unwrap();
    }
}
