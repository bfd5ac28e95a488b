//! Opens files below a folder, and nothing outside of it by any spelling, link or race.
//!
//! It never decides what is served. `disk` calls it, on a worker only with [`Patience::Cached`].

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
};

use rustix::{
    fs::{CWD, FileType, Mode, OFlags, ResolveFlags, Stat, fstat, openat, openat2},
    io::Errno,
    path::Arg,
};

/// Whether a call may wait for a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Patience {
    /// It may not: what is not in the kernel's caches is [`Trouble::Again`].
    Cached,
    /// It may.
    Wait,
}

/// Why a file that may be there can't be had.
#[derive(Debug, thiserror::Error)]
pub(super) enum Trouble {
    /// It would take a wait.
    #[error("not cached")]
    Again,
    /// Its permissions are not for us.
    #[error("not readable: give the proxy's user the right to read it")]
    Forbidden,
    /// We are out of descriptors or memory.
    #[error("out of descriptors or memory")]
    Exhausted,
    /// Everything else.
    #[error(transparent)]
    Io(io::Error),
}

/// What has a name.
#[derive(Debug)]
pub(super) enum Node {
    /// A regular file, open.
    File(OwnedFd, Stat),
    /// A folder.
    Folder,
    /// Nothing, or what is not served: a pipe, a socket, a device, a link that leads out.
    Nothing,
}

/// O_NONBLOCK, so that a pipe without a writer opens at once and is then seen to be one.
const FILE: OFlags = OFlags::RDONLY.union(OFlags::NONBLOCK).union(OFlags::NOCTTY).union(OFlags::CLOEXEC);
const FOLDER: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// How often a resolution that raced with a rename is tried again.
const RACES: usize = 64;

/// Opens the folder that everything else is looked for below. Waits.
pub(super) fn root(path: &std::path::Path) -> Result<OwnedFd, Errno> {
    openat(CWD, path, FOLDER, Mode::empty())
}

/// Opens a folder below another one, by a relative path. Waits.
pub(super) fn folder(below: impl AsFd, path: &str) -> Result<OwnedFd, Errno> {
    beneath(below, path.as_bytes(), FOLDER, Patience::Wait)
}

/// Opens what `name`, a relative path without dot segments, means below `folder`.
pub(super) fn node(folder: impl AsFd, name: &[u8], patience: Patience) -> Result<Node, Trouble> {
    let file = match beneath(folder, name, FILE, patience) {
        Ok(file) => file,
        Err(errno) => return missing(errno, patience),
    };
    let stat = fstat(&file).map_err(|errno| Trouble::Io(errno.into()))?;
    Ok(match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Node::File(file, stat),
        FileType::Directory => Node::Folder,
        _ => Node::Nothing,
    })
}

fn missing(errno: Errno, patience: Patience) -> Result<Node, Trouble> {
    match errno {
        // XDEV is a link that leads out, LOOP a magic one or a circle; NXIO is a socket, NODEV a device without a driver.
        Errno::NOENT | Errno::NOTDIR | Errno::XDEV | Errno::LOOP | Errno::NAMETOOLONG | Errno::NXIO | Errno::NODEV | Errno::INVAL => {
            Ok(Node::Nothing)
        }
        Errno::AGAIN if patience == Patience::Cached => Err(Trouble::Again),
        Errno::ACCESS | Errno::PERM => Err(Trouble::Forbidden),
        Errno::MFILE | Errno::NFILE | Errno::NOMEM => Err(Trouble::Exhausted),
        errno => Err(Trouble::Io(errno.into())),
    }
}

fn beneath(folder: impl AsFd, path: &[u8], flags: OFlags, patience: Patience) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    if patience == Patience::Cached {
        let opened = openat2(folder, path, flags, Mode::empty(), resolve | ResolveFlags::CACHED);
        // A kernel before 5.12 does not know CACHED, a sandbox may refuse the whole call: the blocking pool finds out.
        return opened.map_err(|errno| if matches!(errno, Errno::INVAL | Errno::NOSYS | Errno::PERM) { Errno::AGAIN } else { errno });
    }
    for _ in 0..RACES {
        match openat2(&folder, path, flags, Mode::empty(), resolve) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(Errno::NOSYS | Errno::PERM) => return walk(folder, path, flags),
            done => return done,
        }
    }
    Err(Errno::IO)
}

/// Where openat2 is refused (kernels before 5.6, strict sandboxes): segment by segment, following no link at all.
fn walk(folder: impl AsFd, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    let mut segments = path.split(|byte| *byte == b'/').filter(|segment| !segment.is_empty() && *segment != b".").peekable();
    let mut at = folder.as_fd().try_clone_to_owned().map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    while let Some(segment) = segments.next() {
        if segment == b".." {
            return Err(Errno::XDEV);
        }
        let flags = if segments.peek().is_some() { FOLDER } else { flags };
        at = openat(&at, Arg::as_cow_c_str(&segment)?, flags | OFlags::NOFOLLOW, Mode::empty())?;
    }
    Ok(at)
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    fn tree() -> (tempfile::TempDir, OwnedFd) {
        let dir = tempfile::tempdir().unwrap();
        let inside = dir.path().join("root");
        fs::create_dir_all(inside.join("sub/deep")).unwrap();
        fs::write(dir.path().join("secret"), "secret").unwrap();
        fs::write(inside.join("plain"), "plain").unwrap();
        fs::write(inside.join("sub/deep/file"), "deep").unwrap();
        symlink("../../secret", inside.join("sub/escape")).unwrap();
        symlink("/etc/passwd", inside.join("absolute")).unwrap();
        symlink("/proc/self/root/etc/passwd", inside.join("magic")).unwrap();
        symlink("deep/file", inside.join("sub/link")).unwrap();
        symlink("circle", inside.join("circle")).unwrap();
        rustix::fs::mkfifoat(CWD, inside.join("pipe"), Mode::RUSR).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(inside.join("socket")).unwrap();
        let root = root(&inside).unwrap();
        (dir, root)
    }

    #[test]
    fn only_regular_files_below_the_folder_are_opened() {
        let (_dir, root) = tree();
        for name in ["plain", "sub/deep/file", "sub/link"] {
            assert!(matches!(node(&root, name.as_bytes(), Patience::Wait), Ok(Node::File(..))), "{name}");
        }
        for name in [
            "none",
            "plain/x",
            "sub/escape",
            "absolute",
            "magic",
            "circle",
            "pipe",
            "socket",
            "../secret",
            "sub/../../secret",
            "/etc/passwd",
        ] {
            let node = node(&root, name.as_bytes(), Patience::Wait);
            assert!(matches!(node, Ok(Node::Nothing)), "{name}: {node:?}");
        }
        assert!(matches!(node(&root, b"sub", Patience::Wait), Ok(Node::Folder)));
    }

    #[test]
    fn without_openat2_links_are_not_followed_at_all() {
        let (_dir, root) = tree();
        for name in ["plain", "sub/deep/file", "./sub//deep/file"] {
            assert!(walk(&root, name.as_bytes(), FILE).is_ok(), "{name}");
        }
        for name in ["sub/escape", "absolute", "magic", "sub/link", "../secret", "sub/../plain", "none"] {
            assert!(walk(&root, name.as_bytes(), FILE).is_err(), "{name}");
        }
    }

    #[test]
    fn a_link_that_is_swapped_while_it_is_opened_never_leads_out() {
        let (dir, root) = tree();
        let (inside, outside) = (dir.path().join("root"), dir.path().to_owned());
        fs::create_dir(outside.join("elsewhere")).unwrap();
        fs::write(outside.join("elsewhere/file"), "secret").unwrap();
        std::thread::scope(|scope| {
            let swapping = scope.spawn(|| {
                for turn in 0..3000 {
                    let target = if turn % 2 == 0 { "sub/deep" } else { "../elsewhere" };
                    symlink(target, inside.join("next")).unwrap();
                    fs::rename(inside.join("next"), inside.join("swapped")).unwrap();
                }
            });
            let mut opened = 0;
            while !swapping.is_finished() {
                if let Ok(Node::File(file, _)) = node(&root, b"swapped/file", Patience::Wait) {
                    assert_eq!(io::read_to_string(fs::File::from(file)).unwrap(), "deep");
                    opened += 1;
                }
            }
            assert!(opened > 0, "the link was never seen to lead inside");
        });
    }

    #[test]
    fn what_was_just_used_is_opened_without_waiting() {
        let (_dir, root) = tree();
        assert!(matches!(node(&root, b"plain", Patience::Wait), Ok(Node::File(..))));
        assert!(matches!(node(&root, b"plain", Patience::Cached), Ok(Node::File(..)) | Err(Trouble::Again)));
    }
}
