//! Container images without an engine: one layer, a configuration, a manifest,
//! in the archive format that containerd imports.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use aws_lc_rs::digest::{SHA256, digest};
use serde_json::json;

/// An image that is being made.
#[derive(Debug)]
pub struct Image {
    names: Vec<String>,
    entrypoint: Vec<String>,
    user: String,
    layer: Tar,
    seen: BTreeSet<PathBuf>,
}

impl Image {
    /// An image of these names whose containers run `entrypoint`.
    ///
    /// # Errors
    /// Never for the paths that it makes.
    pub fn new(names: &[&str], entrypoint: &[&str]) -> Result<Self> {
        let mut made = Self {
            names: names.iter().map(|&n| n.to_owned()).collect(),
            entrypoint: entrypoint.iter().map(|&e| e.to_owned()).collect(),
            user: String::new(),
            layer: Tar::default(),
            seen: BTreeSet::new(),
        };
        for dir in ["bin", "etc", "tmp", "var/run", "usr/local/bin"] {
            made.directory(Path::new(dir))?;
        }
        Ok(made)
    }

    /// Runs containers as this user: the kubelet wants a number for `runAsNonRoot`.
    #[must_use]
    pub fn user(mut self, id: u32) -> Self {
        self.user = id.to_string();
        self
    }

    /// Adds a program, with the libraries that it loads at their own paths.
    ///
    /// # Errors
    /// If a file can't be read, or `ldd` doesn't know a library.
    pub fn program(mut self, from: &Path, to: &str) -> Result<Self> {
        self.file(from, Path::new(to), 0o755)?;
        for library in libraries(from)? {
            self.file(&library, &library, 0o755)?;
        }
        Ok(self)
    }

    /// Adds a text file.
    ///
    /// # Errors
    /// If its path is too long.
    pub fn text(mut self, to: &str, text: &str) -> Result<Self> {
        let path = relative(Path::new(to));
        self.directory(path.parent().unwrap_or(Path::new("")))?;
        if self.seen.insert(path.clone()) {
            self.layer.add(&path, Entry::File(0o644, text.as_bytes()))?;
        }
        Ok(self)
    }

    /// Adds a symbolic link: a program under another name.
    ///
    /// # Errors
    /// If a path is too long.
    pub fn link(mut self, from: &str, to: &str) -> Result<Self> {
        let path = relative(Path::new(from));
        self.directory(path.parent().unwrap_or(Path::new("")))?;
        if self.seen.insert(path.clone()) {
            self.layer.add(&path, Entry::Link(to))?;
        }
        Ok(self)
    }

    fn file(&mut self, from: &Path, to: &Path, mode: u32) -> Result<()> {
        let path = relative(to);
        self.directory(path.parent().unwrap_or(Path::new("")))?;
        if self.seen.insert(path.clone()) {
            let bytes = fs::read(from).with_context(|| format!("read {}", from.display()))?;
            self.layer.add(&path, Entry::File(mode, &bytes))?;
        }
        Ok(())
    }

    fn directory(&mut self, path: &Path) -> Result<()> {
        let path = relative(path);
        if path.as_os_str().is_empty() || !self.seen.insert(path.clone()) {
            return Ok(());
        }
        self.directory(path.parent().unwrap_or(Path::new("")))?;
        let mode = if path == Path::new("tmp") {
            0o1777
        } else {
            0o755
        };
        self.layer.add(&path, Entry::Directory(mode))
    }

    /// Writes the archive.
    ///
    /// # Errors
    /// If it can't be written.
    pub fn write(self, to: &Path) -> Result<()> {
        let layer = self.layer.finish();
        let layer_id = hex(&layer);
        let config = serde_json::to_vec(&json!({
            "architecture": architecture(), "os": "linux",
            "config": {
                "User": self.user, "Entrypoint": self.entrypoint,
                "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]},
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{layer_id}")]},
        }))?;
        let config_name = format!("{}.json", hex(&config));
        let layer_name = format!("{layer_id}/layer.tar");
        let manifest = serde_json::to_vec(&json!([{
            "Config": config_name, "RepoTags": self.names, "Layers": [layer_name]}]))?;
        let mut archive = Tar::default();
        archive.add(Path::new(&config_name), Entry::File(0o644, &config))?;
        archive.add(Path::new(&layer_name), Entry::File(0o644, &layer))?;
        archive.add(Path::new("manifest.json"), Entry::File(0o644, &manifest))?;
        let fresh = to.with_extension("new");
        let mut file =
            fs::File::create(&fresh).with_context(|| format!("write {}", fresh.display()))?;
        file.write_all(&archive.finish())?;
        fs::rename(&fresh, to)?;
        Ok(())
    }
}

fn relative(path: &Path) -> PathBuf {
    path.strip_prefix("/").unwrap_or(path).to_owned()
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "aarch64" => "arm64",
        _ => "amd64",
    }
}

fn hex(bytes: &[u8]) -> String {
    let digest = digest(&SHA256, bytes);
    digest.as_ref().iter().map(|b| format!("{b:02x}")).collect()
}

/// The libraries that a program loads; none for a static one.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("ldd")
        .arg(program)
        .output()
        .context("run ldd")?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(
        !text.contains("not found"),
        "{} lacks a library: {text}",
        program.display()
    );
    Ok(libraries_of(&text))
}

fn libraries_of(ldd: &str) -> Vec<PathBuf> {
    let path = |line: &str| {
        let words = line.split_whitespace();
        words
            .into_iter()
            .find(|word| word.starts_with('/'))
            .map(PathBuf::from)
    };
    ldd.lines()
        .filter(|l| l.contains("(0x"))
        .filter_map(path)
        .collect()
}

/// An archive in the `ustar` format, with everything owned by root and made at
/// the same time, so that the same content is the same image.
#[derive(Debug, Default)]
struct Tar(Vec<u8>);

enum Entry<'a> {
    Directory(u32),
    File(u32, &'a [u8]),
    Link(&'a str),
}

impl Tar {
    fn add(&mut self, path: &Path, entry: Entry<'_>) -> Result<()> {
        let (mode, kind, bytes, link) = match entry {
            Entry::Directory(mode) => (mode, b'5', &[][..], ""),
            Entry::File(mode, bytes) => (mode, b'0', bytes, ""),
            Entry::Link(to) => (0o777, b'2', &[][..], to),
        };
        ensure!(link.len() <= 100, "{link} is too long");
        let name = path.to_str().context("a path that isn't text")?;
        let (prefix, name) = split(name).with_context(|| format!("{name} is too long"))?;
        let mut header = [0_u8; BLOCK];
        let mut put = |at: usize, text: &[u8]| {
            if let Some(field) = header.get_mut(at..at + text.len()) {
                field.copy_from_slice(text);
            }
        };
        put(0, name.as_bytes());
        put(100, format!("{mode:07o}\0").as_bytes());
        put(108, b"0000000\0");
        put(116, b"0000000\0");
        put(124, format!("{:011o}\0", bytes.len()).as_bytes());
        put(136, b"00000000000\0");
        // The checksum is taken with spaces in its own place.
        put(148, b"        ");
        put(156, &[kind]);
        put(157, link.as_bytes());
        put(257, b"ustar\x0000");
        put(345, prefix.as_bytes());
        let sum: u32 = header.iter().map(|b| u32::from(*b)).sum();
        if let Some(field) = header.get_mut(148..156) {
            field.copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
        self.0.extend_from_slice(&header);
        self.0.extend_from_slice(bytes);
        self.0.resize(self.0.len().next_multiple_of(BLOCK), 0);
        Ok(())
    }

    fn finish(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 2 * BLOCK, 0);
        self.0
    }
}

/// A name of more than 100 bytes has its first directories in another field.
fn split(name: &str) -> Option<(&str, &str)> {
    if name.len() <= 100 {
        return Some(("", name));
    }
    name.match_indices('/')
        .map(|(at, _)| {
            (
                name.get(..at).unwrap_or_default(),
                name.get(at + 1..).unwrap_or_default(),
            )
        })
        .find(|(prefix, rest)| prefix.len() <= 155 && rest.len() <= 100)
}

const BLOCK: usize = 512;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_tar_reads_the_archive_and_the_layer() {
        let dir = tempfile::tempdir().unwrap();
        let to = dir.path().join("image.tar");
        let shell = fs::canonicalize("/bin/sh").unwrap();
        Image::new(&["ambit/test:dev"], &["/bin/sh"])
            .unwrap()
            .user(1337)
            .program(&shell, "/bin/sh")
            .unwrap()
            .link("/usr/local/bin/shell", "/bin/sh")
            .unwrap()
            .text(
                &format!("/etc/{}/{}", "d".repeat(90), "f".repeat(60)),
                "hello",
            )
            .unwrap()
            .write(&to)
            .unwrap();
        let run = |arguments: &[&str]| {
            let mut command = Command::new("tar");
            let output = command
                .args(arguments)
                .current_dir(dir.path())
                .output()
                .unwrap();
            assert!(output.status.success(), "{output:?}");
            String::from_utf8(output.stdout).unwrap()
        };
        run(&["xf", "image.tar"]);
        let manifest: serde_json::Value =
            serde_json::from_slice(&fs::read(dir.path().join("manifest.json")).unwrap()).unwrap();
        assert_eq!(manifest[0]["RepoTags"][0], "ambit/test:dev");
        let layer = manifest[0]["Layers"][0].as_str().unwrap();
        let listing = run(&["tvf", layer]);
        assert!(listing.contains("drwxrwxrwt 0/0"), "{listing}");
        assert!(
            listing.contains("bin/sh") && listing.contains("libc.so"),
            "{listing}"
        );
        assert!(listing.contains(&"f".repeat(60)), "{listing}");
        assert!(
            listing.contains("usr/local/bin/shell -> /bin/sh"),
            "{listing}"
        );
        let config = manifest[0]["Config"].as_str().unwrap();
        let config: serde_json::Value =
            serde_json::from_slice(&fs::read(dir.path().join(config)).unwrap()).unwrap();
        assert_eq!(config["config"]["User"], "1337");
        let bytes = fs::read(dir.path().join(layer)).unwrap();
        assert_eq!(
            config["rootfs"]["diff_ids"][0],
            format!("sha256:{}", hex(&bytes))
        );
    }

    #[test]
    fn libraries_are_read_from_ldd() {
        let text = "\tlinux-vdso.so.1 (0x00007ffe)\n\
            \tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)\n\
            \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        assert_eq!(
            libraries_of(text),
            [
                Path::new("/lib/x86_64-linux-gnu/libc.so.6"),
                Path::new("/lib64/ld-linux-x86-64.so.2")
            ]
        );
        assert!(libraries_of("\tnot a dynamic executable\n").is_empty());
    }
}
