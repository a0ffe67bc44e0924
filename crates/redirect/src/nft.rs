//! Runs `nft` inside a namespace and reads its rule sets back.

use std::collections::BTreeMap;
use std::io;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use ambit_netns::NetNs;
use nftables::schema::Nftables;
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::time::timeout;

/// `nft` didn't do what it was asked to do.
#[derive(Debug, thiserror::Error)]
pub enum NftError {
    /// The program can't be started inside the namespace.
    #[error("start nft in the namespace")]
    Start(#[source] io::Error),
    /// It can't be talked to.
    #[error("talk to nft")]
    Talk(#[source] io::Error),
    /// It took too long.
    #[error("nft took longer than {DEADLINE:?}")]
    Deadline,
    /// It refused; nothing was changed.
    #[error("nft failed with {status}: {message}")]
    Refused {
        /// How it ended.
        status: ExitStatus,
        /// What it wrote to standard error.
        message: String,
    },
    /// A document that isn't JSON as expected, either way.
    #[error("nft's JSON")]
    Json(#[source] serde_json::Error),
}

/// Applies a document: all of it, or nothing.
pub(crate) async fn apply(ns: &NetNs, document: &Nftables<'_>) -> Result<(), NftError> {
    let input = serde_json::to_vec(document).map_err(NftError::Json)?;
    run(ns, &["-j", "-f", "-"], &input).await.map(drop)
}

/// The kernel's tables of the `inet` family, in normal form.
pub(crate) async fn list(ns: &NetNs, tables: &[&str]) -> Result<Listing, NftError> {
    let output = run(ns, &["-j", "list", "ruleset", "inet"], &[]).await?;
    if output.is_empty() {
        return Ok(Listing::default());
    }
    let document = serde_json::from_slice(&output).map_err(NftError::Json)?;
    Ok(Listing::of(&document, tables))
}

/// What rule sets mean, without handles and the values of counters, so that
/// two can be compared.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Listing {
    tables: BTreeMap<String, TableListing>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct TableListing {
    chains: BTreeMap<String, Value>,
    /// By chain, in their order.
    rules: BTreeMap<String, Vec<Value>>,
    /// Whatever else is in the table: nothing, if it's ours alone.
    others: Vec<Value>,
}

impl Listing {
    pub(crate) fn is_empty(&self) -> bool {
        self.tables.is_empty()
    }

    fn of(document: &Value, names: &[&str]) -> Self {
        let mut listing = Self::default();
        let objects = document.get("nftables").and_then(Value::as_array);
        for object in objects.into_iter().flatten() {
            let Some((kind, body)) = object.as_object().and_then(|o| o.iter().next()) else {
                continue;
            };
            let text = |key: &str| body.get(key).and_then(Value::as_str).unwrap_or_default();
            let name = text(if kind == "table" { "name" } else { "table" });
            if !names.contains(&name) {
                continue;
            }
            let table = listing.tables.entry(name.to_owned()).or_default();
            let mut body = body.clone();
            normalise(&mut body);
            match kind.as_str() {
                "table" => {}
                "chain" => {
                    table.chains.insert(text("name").to_owned(), body);
                }
                "rule" => table
                    .rules
                    .entry(text("chain").to_owned())
                    .or_default()
                    .push(body),
                _ => table.others.push(body),
            }
        }
        listing
    }
}

fn normalise(value: &mut Value) {
    match value {
        Value::Object(object) => {
            object.remove("handle");
            if let Some(counter) = object.get_mut("counter") {
                *counter = Value::Null;
            }
            object.values_mut().for_each(normalise);
        }
        Value::Array(items) => items.iter_mut().for_each(normalise),
        _ => {}
    }
}

async fn run(ns: &NetNs, args: &[&str], input: &[u8]) -> Result<Vec<u8>, NftError> {
    let mut command = Command::new("nft");
    command
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    // A child is born in the namespace of the thread that starts it.
    let mut child = ns
        .run(|| command.spawn())
        .and_then(std::convert::identity)
        .map_err(NftError::Start)?;
    let talk = async {
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(input).await?;
        }
        child.wait_with_output().await
    };
    let output = timeout(DEADLINE, talk)
        .await
        .map_err(|_| NftError::Deadline)?
        .map_err(NftError::Talk)?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    let status = output.status;
    Err(NftError::Refused { status, message })
}

/// It takes milliseconds; a kernel that is busy takes its time.
const DEADLINE: Duration = Duration::from_secs(10);
