//! Finds files in the folders of the static root.
//!
//! It never knows HTTP beyond the codings to look for. `mod` calls it; a name that the kernel has cached is found on the worker itself.

use std::{
    collections::HashMap,
    os::fd::OwnedFd,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use parking_lot::RwLock;
use rustix::{fs::Stat, io::Errno};
use tokio::time::Instant;

use super::{
    Layout,
    coding::{Coding, Codings},
    condition::Validators,
    name::{Asked, Wanted},
    open::{self, Node, Patience, Trouble},
    read::{self, Readers},
};

/// An open folder is used this long: one that was replaced as a whole (a link moved to the next release) is seen after it.
const FOLDER_AGE: Duration = Duration::from_secs(1);

/// Open folders beyond this number are let go once they are too old to be used.
const FOLDERS: usize = 256;

/// The static root.
#[derive(Debug)]
pub(super) struct Disk {
    root: PathBuf,
    layout: Layout,
    folders: RwLock<HashMap<Place, Folder>>,
}

/// A namespace, and a folder below its part of the root.
pub(super) type Place = (Arc<str>, Arc<str>);

#[derive(Debug)]
struct Folder {
    open: Arc<OwnedFd>,
    since: Instant,
}

/// What a request gets.
#[derive(Debug)]
pub(super) enum Found {
    File(File),
    /// The name is a folder's, but was not asked for as one.
    Folder,
    Nothing,
}

/// A file to answer with.
#[derive(Debug)]
pub(super) struct File {
    pub(super) content: Content,
    pub(super) len: u64,
    pub(super) validators: Validators,
    pub(super) coding: Option<Coding>,
    /// Whether it is the fallback.
    pub(super) is_fallback: bool,
}

/// Where the bytes of a file are.
#[derive(Debug)]
pub(super) enum Content {
    Memory(Bytes),
    Disk(Arc<OwnedFd>),
}

impl Disk {
    pub(super) fn new(root: PathBuf, layout: Layout) -> Self {
        Self { root, layout, folders: RwLock::default() }
    }

    /// Finds what is wanted; a small file that had to be waited for comes with its content.
    pub(super) async fn find(
        self: &Arc<Self>,
        place: Place,
        wanted: Wanted,
        codings: Codings,
        readers: &Readers,
    ) -> Result<Found, Trouble> {
        if let Some(folder) = self.folder(&place) {
            match find(&folder, &wanted, &codings, Patience::Cached) {
                Err(Trouble::Again) => {}
                found => return found,
            }
        }
        let disk = self.clone();
        let finding = move || match disk.open(place) {
            Ok(folder) => find(&folder, &wanted, &codings, Patience::Wait)?.with_content(),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::XDEV | Errno::LOOP) => Ok(Found::Nothing),
            Err(Errno::ACCESS) => Err(Trouble::Forbidden),
            Err(errno) => Err(Trouble::Io(errno.into())),
        };
        readers.run(finding).await.map_err(Trouble::Io)?
    }

    /// A folder that is open and not too old.
    fn folder(&self, place: &Place) -> Option<Arc<OwnedFd>> {
        let folders = self.folders.read();
        folders.get(place).filter(|folder| folder.since.elapsed() < FOLDER_AGE).map(|folder| folder.open.clone())
    }

    fn open(&self, place: Place) -> Result<Arc<OwnedFd>, Errno> {
        if let Some(folder) = self.folder(&place) {
            return Ok(folder);
        }
        let (namespace, directory) = &place;
        let root = open::root(&self.root)?;
        let root = match self.layout {
            Layout::Namespaced => open::folder(&root, namespace)?,
            Layout::Shared => root,
        };
        let open = Arc::new(open::folder(&root, directory)?);
        let mut folders = self.folders.write();
        if folders.len() >= FOLDERS {
            folders.retain(|_, folder| folder.since.elapsed() < FOLDER_AGE);
        }
        folders.insert(place, Folder { open: open.clone(), since: Instant::now() });
        Ok(open)
    }
}

fn find(folder: &OwnedFd, wanted: &Wanted, codings: &Codings, patience: Patience) -> Result<Found, Trouble> {
    match open::node(folder, &wanted.name, patience)? {
        Node::File(file, stat) => return choose(folder, &wanted.name, (file, stat), codings, patience).map(Found::File),
        Node::Folder if wanted.asked == Asked::File => return Ok(Found::Folder),
        Node::Folder | Node::Nothing => {}
    }
    let Some(fallback) = &wanted.fallback else { return Ok(Found::Nothing) };
    match open::node(folder, fallback, patience)? {
        Node::File(file, stat) => {
            let file = choose(folder, fallback, (file, stat), codings, patience)?;
            Ok(Found::File(File { is_fallback: true, ..file }))
        }
        Node::Folder | Node::Nothing => Ok(Found::Nothing),
    }
}

/// The best sibling that the client takes, else the file itself.
fn choose(folder: &OwnedFd, name: &[u8], plain: (OwnedFd, Stat), codings: &Codings, patience: Patience) -> Result<File, Trouble> {
    for &coding in codings {
        let sibling = [name, coding.suffix().as_bytes()].concat();
        if let Node::File(file, stat) = open::node(folder, &sibling, patience)? {
            return Ok(File::new(file, &stat, Some(coding)));
        }
    }
    let (file, stat) = plain;
    Ok(File::new(file, &stat, None))
}

impl File {
    fn new(file: OwnedFd, stat: &Stat, coding: Option<Coding>) -> Self {
        let len = u64::try_from(stat.st_size).unwrap_or(0);
        Self { content: Content::Disk(Arc::new(file)), len, validators: validators(stat, SystemTime::now()), coding, is_fallback: false }
    }
}

impl Found {
    fn with_content(self) -> Result<Self, Trouble> {
        match self {
            Found::File(File { content: Content::Disk(file), len, validators, coding, is_fallback }) if len <= read::CHUNK => {
                let bytes = read::read_exactly(&file, 0..len, Patience::Wait).map_err(Trouble::Io)?;
                Ok(Found::File(File { content: Content::Memory(bytes.into()), len, validators, coding, is_fallback }))
            }
            found => Ok(found),
        }
    }
}

/// A tag from inode, time and size; weak while the file may change again within the clock tick of its time (RFC 9110 8.8.1).
fn validators(stat: &Stat, now: SystemTime) -> Validators {
    let seconds = u64::try_from(stat.st_mtime).unwrap_or(0);
    let modified = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    let settled = now.duration_since(modified).is_ok_and(|age| age > Duration::from_secs(2));
    let weak = if settled { "" } else { "W/" };
    let etag = format!("{weak}\"{:x}-{:x}{:08x}-{:x}\"", stat.st_ino, seconds, stat.st_mtime_nsec, stat.st_size);
    // A date later than the answer's is never sent (8.8.2.1).
    Validators { etag, modified: (seconds > 0 && modified <= now).then_some(modified) }
}
