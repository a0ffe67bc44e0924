//! Files that change whole or not at all.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Something couldn't be done with a file.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileError {
    #[error("{what} {path}")]
    Io {
        what: &'static str,
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
    #[error("{0} was changed by somebody else at the same moment")]
    Changed(PathBuf),
}

/// What a new file looks like.
#[derive(Debug, Clone, Copy)]
pub(super) enum Like<'a> {
    Program,
    /// Owner and mode of another one.
    File(&'a Path),
}

/// What a file that somebody else writes to looks different by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    inode: u64,
    length: u64,
    modified: SystemTime,
    mode: u32,
}

pub(super) fn stamp(path: &Path) -> Option<Stamp> {
    let found = fs::symlink_metadata(path).ok()?;
    Some(Stamp {
        inode: found.ino(),
        length: found.len(),
        modified: found.modified().ok()?,
        mode: found.mode(),
    })
}

pub(super) fn read(path: &Path) -> Result<Vec<u8>, FileError> {
    fs::read(path).map_err(|cause| io_error("read", path, cause))
}

pub(super) fn is_executable(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|found| found.mode() & 0o111 == 0o111)
}

/// Fine if it isn't there.
pub(super) fn remove(path: &Path) -> Result<(), FileError> {
    match fs::remove_file(path) {
        Err(cause) if cause.kind() != io::ErrorKind::NotFound => {
            Err(io_error("remove", path, cause))
        }
        _ => Ok(()),
    }
}

/// What a crash between writing and renaming leaves.
pub(super) fn remove_leftovers(dir: &Path) -> Result<(), FileError> {
    remove(&dir.join(TEMPORARY))
}

/// Makes `path` hold the bytes: all of them, or none.
pub(super) fn replace(path: &Path, bytes: &[u8], like: Like<'_>) -> Result<(), FileError> {
    let temporary = write_beside(path, bytes, like)?;
    rename(&temporary, path)
}

/// Like [`replace`], if the file still holds what was `seen` in it.
pub(super) fn swap(path: &Path, seen: &[u8], bytes: &[u8]) -> Result<(), FileError> {
    let temporary = write_beside(path, bytes, Like::File(path))?;
    if read(path).is_ok_and(|now| now == seen) {
        return rename(&temporary, path);
    }
    remove(&temporary)?;
    Err(FileError::Changed(path.to_owned()))
}

fn write_beside(path: &Path, bytes: &[u8], like: Like<'_>) -> Result<PathBuf, FileError> {
    let temporary = path.with_file_name(TEMPORARY);
    remove(&temporary)?;
    let written = || -> io::Result<()> {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temporary)?;
        file.write_all(bytes)?;
        match like {
            Like::Program => file.set_permissions(PermissionsExt::from_mode(0o755))?,
            Like::File(other) => look_like(&file, &temporary, &fs::metadata(other)?)?,
        }
        file.sync_all()
    };
    written().map_err(|cause| io_error("write", &temporary, cause))?;
    Ok(temporary)
}

fn look_like(file: &File, path: &Path, other: &Metadata) -> io::Result<()> {
    let own = file.metadata()?;
    if (own.uid(), own.gid()) != (other.uid(), other.gid()) {
        chown(path, Some(other.uid()), Some(other.gid()))?;
    }
    file.set_permissions(other.permissions())
}

fn rename(from: &Path, to: &Path) -> Result<(), FileError> {
    fs::rename(from, to).map_err(|cause| io_error("replace", to, cause))?;
    // The name must outlast a power cut as well as what it names.
    let directory = to.parent().unwrap_or(Path::new("."));
    File::open(directory)
        .and_then(|directory| directory.sync_all())
        .map_err(|cause| io_error("sync", directory, cause))
}

pub(super) fn io_error(what: &'static str, path: &Path, cause: io::Error) -> FileError {
    let path = path.to_owned();
    FileError::Io { what, path, cause }
}

/// No runtime reads a file of that name, as a program or as a configuration.
pub(super) const TEMPORARY: &str = ".ambit-cni.tmp";
