//! First process of the box, of its nodes and of their pods: see
//! `ambit_e2e::kube::init`. Also the relay into a box.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use ambit_e2e::kube::{init, relay};
use anyhow::Result;
use clap::Parser;

#[derive(Parser)]
enum Arguments {
    /// Holds a pod's namespaces.
    Pause,
    /// Holds a box; standard input is its lifeline.
    Box,
    /// Makes a node's namespaces and starts `node-inside` in them.
    Node(Node),
    /// Holds a node.
    NodeInside(Node),
    /// Carries connections into a network namespace; says its own address.
    Relay {
        /// Where to go.
        to: SocketAddr,
        /// The namespace's path.
        namespace: PathBuf,
        /// Port on the loopback address, or 0 for any.
        port: u16,
    },
}

#[derive(clap::Args)]
struct Node {
    name: String,
    /// Directory of what outlives the node's processes.
    state: PathBuf,
    /// Directory of programs.
    bin: PathBuf,
}

fn main() -> Result<ExitCode> {
    match Arguments::parse() {
        Arguments::Pause => init::pause()?,
        Arguments::Box => init::hold_box()?,
        Arguments::Node(node) => return init::start_node(&node.name, &node.state, &node.bin),
        Arguments::NodeInside(node) => init::hold_node(&node.name, &node.state, &node.bin)?,
        Arguments::Relay {
            to,
            namespace,
            port,
        } => relay::serve(to, &namespace, port)?,
    }
    Ok(ExitCode::SUCCESS)
}
