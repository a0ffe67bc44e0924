//! Finding and reading manifest files, within bounds.

use std::collections::BTreeMap;
use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ambit_kube::{Code, Origin, Problem, Severity};

/// A file above this isn't read: no manifest written by people is so large.
pub const MAX_FILE_BYTES: u64 = 8 * 1024 * 1024;
/// More files than this below one directory are a mistake, for example a mounted root.
const MAX_FILES: usize = 20_000;
/// Directories nested deeper than this aren't read.
const MAX_DEPTH: usize = 16;
/// A file changed so recently may change again without its times telling.
const SETTLED: Duration = Duration::from_secs(1);

/// What tells one state of a file from another without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
    /// Whether the times are old enough to be believed.
    settled: bool,
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        let age = metadata
            .modified()
            .ok()
            .and_then(|at| SystemTime::now().duration_since(at).ok());
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            bytes: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
            settled: age.is_some_and(|age| age > SETTLED),
        }
    }

    /// Whether a file with this stamp now is surely as it was with the stamp `before`.
    pub(crate) fn is_same_as(&self, before: &Self) -> bool {
        before.settled
            && Self {
                settled: true,
                ..*self
            } == *before
    }
}

/// The manifest files below a directory.
#[derive(Debug, Default)]
pub struct Listing {
    /// Every manifest, by path.
    pub files: BTreeMap<PathBuf, Stamp>,
    /// Files that aren't manifests by their name, sorted.
    pub skipped: Vec<PathBuf>,
    /// Directories or files that couldn't be looked at; what was known of them stays.
    pub faults: Vec<(PathBuf, io::Error)>,
    /// Whether the directory itself isn't there.
    pub missing: bool,
}

/// Lists the manifests below `root`, or `root` itself when it is a file.
///
/// Hidden entries are skipped; links are followed, up to a depth.
pub fn list(root: &Path) -> Listing {
    let mut listing = Listing::default();
    match fs::metadata(root) {
        Ok(metadata) if metadata.is_dir() => {
            walk(root, &mut vec![identity(&metadata)], &mut listing);
            if listing.files.len() >= MAX_FILES {
                // Which files were seen is chance: nothing may be taken for gone.
                let error = io::Error::other(format!(
                    "there are {MAX_FILES} manifests or more; the rest isn't read"
                ));
                listing.faults.push((root.to_owned(), error));
            }
        }
        Ok(metadata) => {
            listing.files.insert(root.to_owned(), Stamp::of(&metadata));
        }
        Err(error) => {
            listing.missing = error.kind() == io::ErrorKind::NotFound;
            listing.faults.push((root.to_owned(), error));
        }
    }
    listing.skipped.sort();
    listing
}

/// `above` are the directories on the way from the root, itself included.
fn walk(directory: &Path, above: &mut Vec<(u64, u64)>, listing: &mut Listing) {
    if above.len() > MAX_DEPTH {
        let error = io::Error::other("directories are nested too deeply");
        listing.faults.push((directory.to_owned(), error));
        return;
    }
    let entries = match fs::read_dir(directory).and_then(Iterator::collect::<io::Result<Vec<_>>>) {
        Ok(entries) => entries,
        Err(error) => {
            listing.faults.push((directory.to_owned(), error));
            return;
        }
    };
    for entry in entries {
        let path = entry.path();
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            continue;
        }
        if listing.files.len() >= MAX_FILES {
            return;
        }
        match fs::metadata(&path) {
            Ok(metadata) if metadata.is_dir() && above.contains(&identity(&metadata)) => {
                let error = io::Error::other("the link leads back to a directory above it");
                listing.faults.push((path, error));
            }
            Ok(metadata) if metadata.is_dir() => {
                above.push(identity(&metadata));
                walk(&path, above, listing);
                above.pop();
            }
            Ok(metadata) if metadata.is_file() && is_manifest(&path) => {
                listing.files.insert(path, Stamp::of(&metadata));
            }
            Ok(_) => listing.skipped.push(path),
            // Gone since the directory was read, or a link to nothing: not there.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => listing.faults.push((path, error)),
        }
    }
}

/// What is at a path below the root.
#[derive(Debug)]
pub(crate) enum Place {
    /// A manifest.
    File(Stamp),
    /// Nothing.
    Nothing,
    /// Something that a listing would leave out.
    NotOurs,
    /// Only a listing can tell: a directory, a fault, or about as many files as there may be.
    Unclear,
}

/// Looks at one path that a notification named; `known` files are known.
pub(crate) fn place(root: &Path, path: &Path, known: usize) -> Place {
    let Ok(below) = path.strip_prefix(root) else {
        return Place::Unclear;
    };
    let hidden =
        |part: std::path::Component<'_>| part.as_os_str().as_encoded_bytes().starts_with(b".");
    if below.components().any(hidden) || !is_manifest(path) {
        return Place::NotOurs;
    }
    if known + 1 >= MAX_FILES || below.components().count() > MAX_DEPTH {
        return Place::Unclear;
    }
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_file() => Place::File(Stamp::of(&metadata)),
        // A link that leads nowhere is nothing, too.
        Err(error) if error.kind() == io::ErrorKind::NotFound => match root.is_dir() {
            true => Place::Nothing,
            false => Place::Unclear,
        },
        Ok(_) | Err(_) => Place::Unclear,
    }
}

fn identity(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

pub(crate) fn is_manifest(path: &Path) -> bool {
    path.extension().is_some_and(|extension| {
        ["yaml", "yml", "json"]
            .iter()
            .any(|known| extension.eq_ignore_ascii_case(known))
    })
}

/// Why a file has no text.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadFault {
    /// It was there a moment ago.
    #[error("the file is gone")]
    Gone,
    /// The system refuses.
    #[error("the file can't be read: {0}")]
    Io(#[source] io::Error),
    /// Above the bound.
    #[error("the file has more than {MAX_FILE_BYTES} bytes")]
    TooLarge,
    /// Not text.
    #[error("the file isn't UTF-8 text")]
    NotText,
}

impl ReadFault {
    /// The problem to tell about a file.
    pub(crate) fn problem(&self, path: &Path) -> Problem {
        let (code, remedy) = match self {
            Self::Gone | Self::Io(_) => (Code::UNREADABLE_FILE, "make the file readable"),
            Self::NotText => (Code::UNREADABLE_FILE, "save the file as UTF-8"),
            Self::TooLarge => (Code::FILE_TOO_LARGE, "split the file"),
        };
        path_problem(path, code, self.to_string(), remedy)
    }
}

/// A problem with a file or directory as a whole.
pub(crate) fn path_problem(path: &Path, code: Code, message: String, remedy: &str) -> Problem {
    Problem {
        code,
        severity: Severity::Error,
        key: None,
        origin: Origin {
            file: name_of(path),
            document: 0,
            line: 0,
        },
        field: None,
        value: None,
        message,
        remedy: Some(remedy.to_owned()),
    }
}

/// A path as origins have it.
pub(crate) fn name_of(path: &Path) -> Arc<str> {
    path.to_string_lossy().into()
}

/// The text of a file, within the bound.
pub(crate) fn read(path: &Path) -> Result<String, ReadFault> {
    let classify = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => ReadFault::Gone,
        _ => ReadFault::Io(error),
    };
    let file = File::open(path).map_err(classify)?;
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(classify)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(ReadFault::TooLarge);
    }
    String::from_utf8(bytes).map_err(|_| ReadFault::NotText)
}
