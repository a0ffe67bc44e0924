//! The command line: analyse, explain, inspect.
//!
//! Thin on the crates that the mesh runs: `analyze` reads manifests with the reader and the compiler of the
//! control plane, `ztunnel-config` shows a proxy's own dump. Names, columns and exit codes follow
//! `cli-install-observability-contract` 1.1, 1.3 and 2.1. Nothing here decides anything about the mesh.

mod analyze;
mod args;
mod exit;
mod streams;
mod table;
mod ztunnel_config;

use std::ffi::OsString;

use ambit_runtime::Env;
use clap::Parser as _;
use clap::error::ErrorKind;

use crate::args::{Arguments, Command};
pub use crate::exit::Exit;
pub use crate::streams::Streams;

/// Runs one command line, the program's name included.
pub fn run(
    arguments: impl IntoIterator<Item = OsString>,
    env: &dyn Env,
    streams: &mut Streams<'_>,
) -> Exit {
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => return usage(&error, streams),
    };
    let result = match arguments.command {
        Command::Analyze(analyze) => analyze::run(&analyze, env, streams),
        Command::ZtunnelConfig(config) => ztunnel_config::run(config, env, streams),
        Command::Version => streams.say(&format!("client version: {}", env!("CARGO_PKG_VERSION"))),
    };
    result.unwrap_or_else(|error| {
        // A reader that has seen enough, for example `head`, is no failure of ours.
        if error.is_closed_pipe() {
            return Exit::Ok;
        }
        streams.note(&format!("Error: {error}"));
        error.exit()
    })
}

/// Help and version are answers; everything else that clap says is a wrong call.
fn usage(error: &clap::Error, streams: &mut Streams<'_>) -> Exit {
    let text = error.render().to_string();
    let text = text.trim_end();
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            streams.say(text).unwrap_or(Exit::Failure)
        }
        _ => {
            streams.note(text);
            Exit::Usage
        }
    }
}
