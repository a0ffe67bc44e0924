use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ambit_kube::Change;
use ambit_runtime::Scope;
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::DirSource;

/// A watched directory and what its source has told so far.
struct Watched {
    dir: TempDir,
    scope: Scope,
    rx: mpsc::Receiver<Vec<Change>>,
    keys: BTreeSet<String>,
    problems: Vec<&'static str>,
    synced: usize,
}

impl Watched {
    fn start(dir: TempDir, root: &Path, rescan: Duration) -> Self {
        let scope = Scope::new("test");
        let (tx, rx) = mpsc::channel(4);
        DirSource::new(root).rescan_every(rescan).run(&scope, tx);
        Self {
            dir,
            scope,
            rx,
            keys: BTreeSet::new(),
            problems: Vec::new(),
            synced: 0,
        }
    }

    /// Over a fresh directory, seeing changes by notification only.
    fn fresh() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().to_owned();
        Self::start(dir, &root, Duration::from_secs(3600))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    /// Takes batches in until the state is as wanted.
    async fn until(&mut self, what: &str, wanted: impl Fn(&Self) -> bool) {
        while !wanted(self) {
            let batch = timeout(Duration::from_secs(20), self.rx.recv()).await;
            let Ok(Some(batch)) = batch else {
                panic!("never: {what}; have {:?} {:?}", self.keys, self.problems)
            };
            for change in batch {
                match change {
                    Change::Apply(located) => {
                        self.keys.insert(located.object.key().to_string());
                    }
                    Change::Delete(key) => {
                        assert!(self.keys.remove(&key.to_string()), "{key} wasn't there")
                    }
                    Change::Problems(problems) => {
                        self.problems = problems
                            .iter()
                            .map(|problem| problem.code.as_str())
                            .collect();
                    }
                    Change::Synced => self.synced += 1,
                    Change::Redirection { .. } => panic!("a directory knows no redirection"),
                }
            }
        }
    }

    async fn until_keys(&mut self, keys: &[&str]) {
        let wanted: BTreeSet<String> = keys.iter().map(|key| format!("Namespace {key}")).collect();
        self.until(&format!("{wanted:?}"), |seen| seen.keys == wanted)
            .await;
    }

    async fn end(self) {
        assert_eq!(self.synced, 1);
        drop(self.rx);
        assert_eq!(
            self.scope.finish(Duration::from_secs(20)).await,
            0,
            "the task ends with its receiver"
        );
    }
}

fn namespace(name: &str) -> String {
    format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}}}\n")
}

#[tokio::test]
async fn files_come_change_and_go() {
    let mut seen = Watched::fresh();
    seen.until("synced", |seen| seen.synced == 1).await;
    seen.write("a.yaml", &namespace("a"));
    seen.until_keys(&["a"]).await;
    fs::create_dir_all(seen.path("deep/er")).unwrap();
    seen.write(
        "deep/er/b.json",
        r#"{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "b"}}"#,
    );
    // A new directory's files may come before its notifications do: any later event shows them.
    seen.write("c.yml", &namespace("c"));
    seen.until_keys(&["a", "b", "c"]).await;
    seen.write(
        "a.yaml",
        &format!("{}---\n{}", namespace("a"), namespace("d")),
    );
    seen.until_keys(&["a", "b", "c", "d"]).await;
    fs::remove_file(seen.path("a.yaml")).unwrap();
    fs::remove_dir_all(seen.path("deep")).unwrap();
    seen.until_keys(&["c"]).await;
    seen.end().await;
}

#[tokio::test]
async fn what_is_not_a_manifest_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    for name in [".hidden.yaml", "notes.txt", "a.yaml~", ".git/x.yaml"] {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "broken: [").unwrap();
    }
    fs::write(dir.path().join("a.yaml"), namespace("a")).unwrap();
    let root = dir.path().to_owned();
    let mut seen = Watched::start(dir, &root, Duration::from_secs(3600));
    seen.until("synced", |seen| seen.synced == 1).await;
    assert_eq!(seen.keys, ["Namespace a".to_owned()].into());
    assert!(seen.problems.is_empty(), "{:?}", seen.problems);
    seen.end().await;
}

#[tokio::test]
async fn a_file_is_replaced_at_once_by_a_rename() {
    let mut seen = Watched::fresh();
    seen.write("a.yaml", &namespace("a"));
    seen.until_keys(&["a"]).await;
    seen.write(".a.yaml.new", &namespace("b"));
    fs::rename(seen.path(".a.yaml.new"), seen.path("a.yaml")).unwrap();
    seen.until_keys(&["b"]).await;
    seen.end().await;
}

#[tokio::test]
async fn a_half_written_file_takes_nothing_away() {
    let mut seen = Watched::fresh();
    seen.write("a.yaml", &namespace("a"));
    seen.until_keys(&["a"]).await;
    seen.write(
        "a.yaml",
        "apiVersion: v1\nkind: Namespace\nmetadata: {name: ",
    );
    seen.until("told", |seen| seen.problems == ["AMB0101", "AMB0123"])
        .await;
    assert_eq!(seen.keys, ["Namespace a".to_owned()].into());
    seen.write("a.yaml", &namespace("b"));
    seen.until_keys(&["b"]).await;
    assert!(seen.problems.is_empty());
    seen.end().await;
}

#[tokio::test]
async fn a_directory_that_vanishes_keeps_its_objects_and_may_return() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("manifests");
    let aside = dir.path().join("aside");
    let mut seen = Watched::start(dir, &root, Duration::from_millis(20));
    // Not there yet: said, and nothing is synced.
    seen.until("missing at the start", |seen| seen.problems == ["AMB0121"])
        .await;
    assert_eq!(seen.synced, 0);
    fs::create_dir(&aside).unwrap();
    fs::write(aside.join("a.yaml"), namespace("a")).unwrap();
    fs::rename(&aside, &root).unwrap();
    seen.until_keys(&["a"]).await;
    seen.until("synced", |seen| seen.synced == 1).await;
    fs::rename(&root, &aside).unwrap();
    seen.until("missing", |seen| seen.problems == ["AMB0121"])
        .await;
    assert_eq!(seen.keys, ["Namespace a".to_owned()].into());
    fs::write(aside.join("b.yaml"), namespace("b")).unwrap();
    fs::rename(&aside, &root).unwrap();
    seen.until_keys(&["a", "b"]).await;
    seen.until("nothing is wrong", |seen| seen.problems.is_empty())
        .await;
    seen.end().await;
}

#[tokio::test]
async fn links_are_followed_and_circles_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("manifests");
    let generation = |n: u32| dir.path().join(format!("generation-{n}"));
    fs::create_dir(&root).unwrap();
    for n in [1, 2] {
        fs::create_dir(generation(n)).unwrap();
        fs::write(generation(n).join("a.yaml"), namespace(&format!("a{n}"))).unwrap();
    }
    let (first, second) = (generation(1), generation(2));
    std::os::unix::fs::symlink(&first, root.join("current")).unwrap();
    let mut seen = Watched::start(dir, &root, Duration::from_millis(20));
    seen.until_keys(&["a1"]).await;
    // As a mounted ConfigMap changes.
    std::os::unix::fs::symlink(&second, root.join(".next")).unwrap();
    fs::rename(root.join(".next"), root.join("current")).unwrap();
    seen.until_keys(&["a2"]).await;
    std::os::unix::fs::symlink(&root, second.join("circle")).unwrap();
    seen.until("told", |seen| seen.problems == ["AMB0121"])
        .await;
    assert!(seen.keys.contains("Namespace a2"));
    seen.end().await;
}

#[test]
fn looks_at_everything_take_a_small_share_of_the_time() {
    let ms = Duration::from_millis;
    let cases = [
        (2000, 1, 2000),
        (2000, 20, 4000),
        (2000, 900, 30_000),
        (60_000, 900, 60_000),
    ];
    for (wanted, took, want) in cases {
        assert_eq!(super::pause(ms(wanted), ms(took)), ms(want), "{took}");
    }
}
