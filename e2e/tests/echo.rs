//! `echo-advanced` as a process: what its name decides, and how it ends.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use ambit_testkit::eventually_within;
use anyhow::{Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const PROGRAM: &str = env!("CARGO_BIN_EXE_echo-advanced");

struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

#[tokio::test]
async fn the_program_is_a_server_and_under_another_name_its_client() -> Result<()> {
    let (http, grpc, tcp) = (free_port()?, free_port()?, free_port()?);
    let arguments = [("port", http), ("grpc", grpc), ("tcp", tcp)];
    let arguments = arguments.map(|(name, port)| format!("--{name}={port}"));
    let server = Command::new(PROGRAM)
        .args(arguments)
        .stdin(Stdio::null())
        .spawn()?;
    let mut server = Server(server);
    let dir = tempfile::tempdir()?;
    let client = dir.path().join("client");
    std::os::unix::fs::symlink(PROGRAM, &client)?;
    for url in [
        format!("http://127.0.0.1:{http}/a"),
        format!("grpc://127.0.0.1:{grpc}"),
    ] {
        let half_a_minute = Duration::from_secs(30);
        eventually_within(half_a_minute, &format!("{url} answers"), async || {
            let output = Command::new(&client).arg(&url).output()?;
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            ensure!(output.status.success(), "{text}");
            ensure!(text.contains("[0] StatusCode=200\n"), "{text}");
            ensure!(text.contains("[0 body] Hostname="), "{text}");
            Ok(())
        })
        .await?;
    }
    // As the first process of a container nothing else would end it.
    kill(Pid::from_raw(server.0.id().try_into()?), Signal::SIGTERM)?;
    assert!(server.0.wait()?.success());
    Ok(())
}
