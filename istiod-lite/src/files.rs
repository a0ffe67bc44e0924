//! Files that are replaced whole: a reader sees the old text or the new one,
//! and so does a restart after a crash.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Who may read a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Readable {
    /// Its owner (0600).
    ByOwner,
    /// Everybody (0644).
    ByAll,
}

/// Replaces a file's text, or creates it. Blocks on the disk.
///
/// # Errors
/// What the file system says; the old text is then still there.
pub(crate) fn replace(path: &Path, text: &[u8], readable: Readable) -> io::Result<()> {
    let dir = match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new = dir.join(name);
    let mode = match readable {
        Readable::ByOwner => 0o600,
        Readable::ByAll => 0o644,
    };
    // A leftover of a crash would keep its own mode.
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&new)?;
    file.write_all(text)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn replaces_and_leaves_nothing_beside() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        fs::write(dir.path().join("f.new"), "left by a crash").unwrap();
        for (text, readable, mode) in [
            ("one", Readable::ByOwner, 0o600),
            ("two", Readable::ByAll, 0o644),
        ] {
            replace(&path, text.as_bytes(), readable).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
            let got = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
            assert_eq!(got, mode);
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
