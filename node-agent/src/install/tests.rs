use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::*;

const LIST: &str = "{\"cniVersion\": \"0.3.1\", \"name\": \"pods\",\n \"plugins\": [\n  \
    {\"type\": \"ptp\"},\n  {\"type\": \"portmap\"}\n ]\n}\n";

struct Node {
    dir: tempfile::TempDir,
    guest: Guest,
}

impl Node {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        for name in ["bin", "conf"] {
            fs::create_dir(path(name)).unwrap();
        }
        fs::write(path("plugin"), "one").unwrap();
        let guest = Guest {
            plugin: path("plugin"),
            bin_dir: path("bin"),
            conf_dir: path("conf"),
            conf_name: None,
            entry: r#"{"type":"ambit-cni","socket":"/s"}"#.to_owned(),
            installed: None,
        };
        Self { dir, guest }
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.dir.path().join("conf").join(name), text).unwrap();
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.dir.path().join("conf").join(name)).unwrap()
    }

    fn names(&self, dir: &str) -> Vec<String> {
        let entries = fs::read_dir(self.dir.path().join(dir)).unwrap();
        let name = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name();
        let mut names: Vec<_> = entries
            .map(|entry| name(entry).into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    fn program(&self) -> PathBuf {
        self.dir.path().join("bin/ambit-cni")
    }
}

const NOTHING: Joined = Joined {
    program: false,
    configuration: false,
};
const BOTH: Joined = Joined {
    program: true,
    configuration: true,
};
const CONFIGURATION: Joined = Joined {
    program: false,
    configuration: true,
};

fn is_joined(text: &str) -> bool {
    text.matches("ambit-cni").count() == 1
}

#[test]
fn a_guest_joins_the_first_list_and_leaves_no_trace() {
    let mut node = Node::new();
    node.write("10-pods.conflist", LIST);
    node.write("20-other.conflist", LIST);
    node.write("05-notes.txt", "{");
    let path = node.dir.path().join("conf/10-pods.conflist");
    fs::set_permissions(&path, PermissionsExt::from_mode(0o640)).unwrap();
    assert_eq!(node.guest.join().unwrap(), BOTH);
    assert!(is_joined(&node.read("10-pods.conflist")));
    assert_eq!(node.read("20-other.conflist"), LIST);
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o640
    );
    assert_eq!(fs::read_to_string(node.program()).unwrap(), "one");
    let mode = fs::metadata(node.program()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o755);
    assert_eq!(node.guest.join().unwrap(), NOTHING);
    node.guest.leave().unwrap();
    assert_eq!(node.read("10-pods.conflist"), LIST);
    assert_eq!(node.names("bin"), [""; 0]);
    assert_eq!(
        node.names("conf"),
        ["05-notes.txt", "10-pods.conflist", "20-other.conflist"]
    );
    node.guest.leave().unwrap();
}

#[test]
fn no_entry_comes_before_its_program() {
    let mut node = Node::new();
    node.write("10-pods.conflist", LIST);
    fs::remove_file(&node.guest.plugin).unwrap();
    assert!(node.guest.join().is_err());
    assert_eq!(node.read("10-pods.conflist"), LIST);
    assert_eq!(node.names("bin"), [""; 0]);
}

#[test]
fn without_a_network_the_guest_waits() {
    let mut node = Node::new();
    node.write("10-broken.conflist", "{");
    node.write("11-empty.conflist", r#"{"plugins": []}"#);
    let waits = node.guest.join();
    assert!(
        matches!(waits, Err(InstallError::NoNetwork(_))),
        "{waits:?}"
    );
    assert_eq!(node.read("10-broken.conflist"), "{");
    // The network's own plugin comes.
    node.write("20-pods.conflist", LIST);
    assert_eq!(node.guest.join().unwrap(), CONFIGURATION);
    assert!(is_joined(&node.read("20-pods.conflist")));
}

#[test]
fn whoever_rewrites_the_list_or_the_program_is_followed() {
    let mut node = Node::new();
    node.write("10-pods.conflist", LIST);
    node.guest.join().unwrap();
    let newer = LIST.replace("portmap", "bandwidth");
    node.write("10-pods.conflist", &newer);
    assert_eq!(node.guest.join().unwrap(), CONFIGURATION);
    assert!(is_joined(&node.read("10-pods.conflist")));
    // A new file is first now; the old one may still be in a runtime's use.
    node.write("05-new.conflist", LIST);
    assert_eq!(node.guest.join().unwrap(), CONFIGURATION);
    assert!(is_joined(&node.read("05-new.conflist")));
    fs::write(node.program(), "damaged").unwrap();
    assert!(node.guest.join().unwrap().program);
    assert_eq!(fs::read_to_string(node.program()).unwrap(), "one");
    fs::remove_file(node.program()).unwrap();
    assert!(node.guest.join().unwrap().program);
    // The next version of the agent, with another entry.
    let mut next = node.guest.clone();
    (next.installed, next.entry) = (None, r#"{"type":"ambit-cni","socket":"/t"}"#.to_owned());
    fs::write(&next.plugin, "two").unwrap();
    assert_eq!(next.join().unwrap(), BOTH);
    assert_eq!(fs::read_to_string(node.program()).unwrap(), "two");
    assert!(node.read("05-new.conflist").contains("/t"));
    next.leave().unwrap();
    assert_eq!(node.read("05-new.conflist"), LIST);
    assert_eq!(node.read("10-pods.conflist"), newer);
}

#[test]
fn a_single_plugin_stays_as_it_is_behind_a_list_of_ours() {
    let mut node = Node::new();
    let single = "{\"cniVersion\":\"0.3.1\",\"name\":\"pods\",\"type\":\"ptp\"}\n";
    node.write("10-pods.conf", single);
    node.write("20-other.conflist", LIST);
    assert_eq!(node.guest.join().unwrap(), BOTH);
    // A runtime takes the first by name.
    let names = [
        "10-pods.ambit.conflist",
        "10-pods.conf",
        "20-other.conflist",
    ];
    assert_eq!(node.names("conf"), names);
    assert!(is_joined(&node.read("10-pods.ambit.conflist")));
    assert_eq!(node.read("10-pods.conf"), single);
    assert_eq!(node.read("20-other.conflist"), LIST);
    assert_eq!(node.guest.join().unwrap(), NOTHING);
    // Its owner changes it, then turns it into a list, then gives it up.
    let changed = single.replace("ptp", "bridge");
    node.write("10-pods.conf", &changed);
    assert_eq!(node.guest.join().unwrap(), CONFIGURATION);
    assert!(node.read("10-pods.ambit.conflist").contains("bridge"));
    fs::remove_file(node.dir.path().join("conf/10-pods.conf")).unwrap();
    assert_eq!(node.guest.join().unwrap(), CONFIGURATION);
    assert_eq!(node.names("conf"), ["20-other.conflist"]);
    assert!(is_joined(&node.read("20-other.conflist")));
    node.write("10-pods.conf", single);
    node.guest.join().unwrap();
    node.guest.leave().unwrap();
    assert_eq!(node.names("conf"), ["10-pods.conf", "20-other.conflist"]);
    assert_eq!(node.read("10-pods.conf"), single);
    assert_eq!(node.read("20-other.conflist"), LIST);
}

#[test]
fn a_named_file_is_joined_whatever_comes_first() {
    let mut node = Node::new();
    node.guest.conf_name = Some("20-pods.conflist".into());
    node.write("10-other.conflist", LIST);
    node.write("20-pods.conflist", LIST);
    node.guest.join().unwrap();
    assert_eq!(node.read("10-other.conflist"), LIST);
    assert!(is_joined(&node.read("20-pods.conflist")));
}

/// Each point at which an installation may end: what is there after it works,
/// and the next one brings it to its end.
#[test]
fn a_crash_at_any_step_is_gone_with_the_next_start() {
    let leftovers = ["bin/.ambit-cni.tmp", "conf/.ambit-cni.tmp"];
    let crashed: [&dyn Fn(&Node); 4] = [
        // The program is half written beside its place.
        &|node| fs::write(node.dir.path().join(leftovers[0]), "o").unwrap(),
        // The program is in place, the configuration isn't.
        &|node| fs::write(node.program(), "one").unwrap(),
        // In place, but not to be executed yet.
        &|node| {
            fs::write(node.program(), "one").unwrap();
            fs::set_permissions(node.program(), PermissionsExt::from_mode(0o600)).unwrap();
        },
        // The configuration is half written beside its place.
        &|node| {
            fs::write(node.program(), "one").unwrap();
            fs::write(node.dir.path().join(leftovers[1]), "{\"plu").unwrap();
        },
    ];
    for crash in crashed {
        let mut node = Node::new();
        node.write("10-pods.conflist", LIST);
        crash(&node);
        assert_eq!(node.read("10-pods.conflist"), LIST);
        assert!(node.guest.join().unwrap().configuration);
        assert_eq!(node.names("bin"), ["ambit-cni"]);
        assert_eq!(node.names("conf"), ["10-pods.conflist"]);
        let mode = fs::metadata(node.program()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o755);
        // And on the way out: the entry is gone, the program isn't yet.
        node.write("10-pods.conflist", LIST);
        node.guest.leave().unwrap();
        assert_eq!(node.names("bin"), [""; 0]);
        assert_eq!(node.read("10-pods.conflist"), LIST);
    }
}

#[test]
fn somebody_elses_change_in_the_same_moment_is_not_undone() {
    let node = Node::new();
    node.write("10-pods.conflist", "theirs");
    let path = node.dir.path().join("conf/10-pods.conflist");
    let swapped = files::swap(&path, b"what was read", b"ours");
    assert!(matches!(swapped, Err(FileError::Changed(_))), "{swapped:?}");
    assert_eq!(node.names("conf"), ["10-pods.conflist"]);
    assert_eq!(node.read("10-pods.conflist"), "theirs");
}

#[tokio::test]
async fn the_guest_stays_whatever_others_do() {
    let node = Node::new();
    let readiness = ambit_runtime::Readiness::new();
    let scope = ambit_runtime::Scope::new("guest");
    scope.spawn("guest", node.guest.clone().stay(readiness.register("cni")));
    let until = async |what: &str, reached: &dyn Fn() -> bool| {
        for _ in 0..2000 {
            if reached() {
                return;
            }
            sleep(Duration::from_millis(10)).await;
        }
        panic!("never: {what}");
    };
    assert!(!readiness.is_ready());
    node.write("10-pods.conflist", LIST);
    until("it joins", &|| is_joined(&node.read("10-pods.conflist"))).await;
    until("it's ready", &|| readiness.is_ready()).await;
    node.write("10-pods.conflist", LIST);
    until("it joins again", &|| {
        is_joined(&node.read("10-pods.conflist"))
    })
    .await;
    fs::remove_file(node.program()).unwrap();
    until("the program is back", &|| node.program().exists()).await;
    scope.finish(Duration::ZERO).await;
}
