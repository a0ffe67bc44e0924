//! Runs the program.
#![allow(clippy::expect_used, reason = "only tests are here")]

#[allow(dead_code, reason = "only some of the tests have a cluster")]
pub(crate) mod api;

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

/// How a run ended.
pub(crate) struct Run {
    pub(crate) code: i32,
    pub(crate) output: String,
    pub(crate) notes: String,
}

/// Runs `ambit` with nothing on its standard input.
#[allow(dead_code, reason = "only some of the tests have no cluster")]
pub(crate) fn ambit(arguments: &[&str]) -> Run {
    ambit_reading("", arguments)
}

/// Runs `ambit` with a text on its standard input.
#[allow(dead_code, reason = "only some of the tests have no cluster")]
pub(crate) fn ambit_reading(input: &str, arguments: &[&str]) -> Run {
    run(
        Command::new(env!("CARGO_BIN_EXE_ambit")).env_remove("AMBIT_DEMO_DIR"),
        input,
        arguments,
    )
}

/// Runs `ambit` with a cluster, and a text on its standard input.
#[allow(dead_code, reason = "only some of the tests have a cluster")]
pub(crate) fn ambit_at(api: &api::Api, input: &str, arguments: &[&str]) -> Run {
    run(
        Command::new(env!("CARGO_BIN_EXE_ambit")).env("KUBECONFIG", api.kubeconfig()),
        input,
        arguments,
    )
}

/// Runs `ambit` with the state of a demo in a directory.
#[allow(dead_code, reason = "only some of the tests have a demo")]
pub(crate) fn ambit_in(demo: &Path, arguments: &[&str]) -> Run {
    run(
        Command::new(env!("CARGO_BIN_EXE_ambit")).env("AMBIT_DEMO_DIR", demo),
        "",
        arguments,
    )
}

fn run(command: &mut Command, input: &str, arguments: &[&str]) -> Run {
    // Nobody's own cluster.
    if command.get_envs().all(|(name, _)| name != "KUBECONFIG") {
        command.env("KUBECONFIG", "/nonexistent/kubeconfig");
    }
    let mut child = command
        .args(arguments)
        .current_dir(env!("CARGO_TARGET_TMPDIR"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut stdin = child.stdin.take().expect("piped");
    // A program that doesn't read its input may be gone already.
    stdin.write_all(input.as_bytes()).ok();
    drop(stdin);
    let done = child.wait_with_output().expect("the program ends");
    Run {
        code: done.status.code().expect("not killed"),
        output: String::from_utf8(done.stdout).expect("text"),
        notes: String::from_utf8(done.stderr).expect("text"),
    }
}

/// The path of a file of ours.
pub(crate) fn fixture(name: &str) -> String {
    format!("{}/tests/fixtures/{name}", env!("CARGO_MANIFEST_DIR"))
}
