//! `ambit-cni`, the last in a node's chain of CNI plugins: holds a pod that
//! starts until the node agent has enrolled it.
//!
//! Runs on the node itself, as the container runtime starts it, so it needs
//! nothing but the agent's socket. Who is enrolled is the agent's to say. While
//! the agent is away, a pod is refused with an error after which kubelet tries
//! again: whoever is enrolled never starts unredirected. Exempt are pods of the
//! namespaces that are never enrolled, and the agent's own.
//!
//! The protocol is CNI's, versions 0.3.0 to 1.1.0: what plugins before this one
//! did is passed on as it came.

mod agent;
mod config;
mod verdict;

use std::io::{self, Read, Write};
use std::process::ExitCode;
use std::time::Duration;

use crate::agent::Agent;
use crate::config::{Config, Failure, Invocation};
use crate::verdict::Verdict;

fn main() -> ExitCode {
    let mut input = String::new();
    let read = io::stdin().take(MAX_INPUT).read_to_string(&mut input);
    #[allow(
        clippy::disallowed_methods,
        reason = "CNI's arguments are the environment; read here and nowhere else"
    )]
    let variable = |name: &str| std::env::var(name).ok();
    let answer = match read {
        Ok(_) => answer(&variable, &input),
        Err(error) => Err(Failure::io(format!("read the configuration: {error}"))),
    };
    let (text, code) = match answer {
        Ok(text) => (text, ExitCode::SUCCESS),
        Err(failure) => (
            failure.to_json(config::version_of(&input)),
            ExitCode::FAILURE,
        ),
    };
    // A runtime that doesn't listen has nothing to be told.
    let _ = io::stdout().write_all(text.as_bytes());
    code
}

/// What is printed for one call.
fn answer(variable: &dyn Fn(&str) -> Option<String>, input: &str) -> Result<String, Failure> {
    let command = variable("CNI_COMMAND").unwrap_or_default();
    match command.as_str() {
        "VERSION" => Ok(config::versions(config::version_of(input))),
        // The network doesn't depend on the agent: a node that calls itself
        // unready for its sake would never start it.
        "STATUS" | "GC" => Config::read(input).map(|_| String::new()),
        "ADD" => {
            let config = Config::read(input)?;
            let invocation = Invocation::read(variable)?;
            // Refused pods aside, what the chain has made is what it has made.
            let result = config.previous()?;
            hold(&config, &invocation, "/cmdadd")?;
            Ok(result.to_string())
        }
        "CHECK" => {
            let config = Config::read(input)?;
            let invocation = Invocation::read(variable)?;
            config.previous()?;
            hold(&config, &invocation, "/cmdcheck").map(|()| String::new())
        }
        "DEL" => {
            // Whatever is wrong, a pod that goes isn't kept from going.
            if let (Ok(config), Ok(invocation)) = (Config::read(input), Invocation::read(variable))
                && verdict::of(&config, &invocation) == Verdict::Ask
            {
                let agent = Agent::new(&config, Duration::ZERO);
                let _ = agent.ask("/cmddel", &invocation, &config);
            }
            Ok(String::new())
        }
        other => Err(Failure::new(
            config::INVALID_ENVIRONMENT,
            format!("unknown CNI_COMMAND {other:?}"),
        )),
    }
}

fn hold(config: &Config, invocation: &Invocation, path: &str) -> Result<(), Failure> {
    match verdict::of(config, invocation) {
        Verdict::Pass => Ok(()),
        Verdict::Ask => {
            let asked = Agent::new(config, PATIENCE).ask(path, invocation, config);
            asked.map_err(|error| Failure::again(error.to_string()))
        }
    }
}

/// A configuration is a few KiB.
const MAX_INPUT: u64 = 4 << 20;
/// How long an agent that isn't there is waited for: a restart's time. Kubelet
/// tries again after that, at its own pace.
const PATIENCE: Duration = Duration::from_secs(5);
