//! The load while something is rolled, and the table of what failed.

use std::fmt::Write as _;
use std::io::Write as _;
use std::time::Duration;

use ambit_e2e::kube::Api;
use ambit_e2e::load::steady::{Counts, Tally};
use ambit_testkit::eventually_within;
use anyhow::{Context, Result, bail, ensure};

use super::{CLIENT, pods};
use crate::inside::said;

/// A load that runs, and what became of it in each roll.
pub(super) struct Rolls {
    api: Api,
    /// The log of the pod that makes it: the mesh has no part in reading it.
    log: String,
    rows: Vec<Row>,
}

struct Row {
    what: &'static str,
    fresh: Counts,
    kept: Counts,
    failures: Vec<String>,
}

impl Rolls {
    /// Waits until every worker is answered: they began before there was a backend.
    pub(super) async fn start(api: &Api) -> Result<Self> {
        let pods = pods(api, CLIENT, "app=load").await?;
        let [pod] = pods.as_slice() else {
            bail!("{} pods make the load", pods.len());
        };
        let name = pod["metadata"]["name"].as_str().context("it has a name")?;
        let rolls = Self {
            api: api.clone(),
            log: format!("/api/v1/namespaces/{CLIENT}/pods/{name}/log"),
            rows: Vec::new(),
        };
        let failed = |tally: &Tally| tally.fresh.failed() + tally.kept.failed();
        for _ in 0..10 {
            let before = rolls.tally().await?;
            rolls.rounds(AFTERWARDS).await?;
            if failed(&before) == failed(&rolls.tally().await?) {
                return Ok(rolls);
            }
        }
        bail!(
            "failures before anything has begun: {:?}",
            rolls.read().await?
        );
    }

    /// What became of the requests so far.
    pub(super) async fn tally(&self) -> Result<Tally> {
        Ok(self.read().await?.0)
    }

    async fn read(&self) -> Result<(Tally, Vec<String>)> {
        let log = self.api.text(&self.log).await?;
        let failed = log.lines().filter_map(|line| line.strip_prefix("FAILED "));
        let mut lines = log.lines().rev();
        // The last line may be half written.
        let tally = lines.find_map(|line| serde_json::from_str(line).ok());
        let tally = tally.context("the load has said nothing yet")?;
        Ok((tally, failed.map(str::to_owned).collect()))
    }

    /// Waits until every worker has made so many more requests: whatever hung
    /// has been counted then.
    pub(super) async fn rounds(&self, more: u64) -> Result<()> {
        let mut until = None;
        eventually_within(BOUND, "every worker goes on", async || {
            let rounds = self.tally().await?.rounds;
            let until = *until.get_or_insert(rounds + more);
            ensure!(rounds >= until, "the last has made {rounds} of {until}");
            Ok(())
        })
        .await
    }

    /// A row of the table: one thing that happens under load.
    pub(super) async fn during(
        &mut self,
        what: &'static str,
        roll: impl Future<Output = Result<()>>,
    ) -> Result<()> {
        let (before, seen) = self.read().await?;
        let rolled = roll.await.context(what);
        if rolled.is_ok() {
            self.rounds(AFTERWARDS).await.context(what)?;
        }
        let (after, failures) = self.read().await?;
        let mut row = Row {
            what,
            fresh: after.fresh.since(&before.fresh),
            kept: after.kept.since(&before.kept),
            failures: failures.get(seen.len()..).unwrap_or_default().to_vec(),
        };
        if row.fresh.failed() > 0 {
            row.failures.push(said(&self.api));
        }
        say(&format!("{}\n", row.text()));
        self.rows.push(row);
        rolled
    }

    /// The table, past the test harness, which keeps what tests say to itself.
    pub(super) fn print(&self) {
        let mut text = format!("\n{HEAD}\n|---|---|---|---|---|\n");
        for row in &self.rows {
            let _ = writeln!(text, "{}", row.text());
        }
        say(&text);
    }

    /// Fails with every failure of a kind that there may be none of; kept
    /// connections may end in the rolls that are named.
    pub(super) fn assert_none_failed(&self, cut: &[&str]) {
        let mut text = String::new();
        for row in &self.rows {
            let kept = row.kept.failed() > 0 && !cut.contains(&row.what);
            if row.fresh.failed() > 0 || kept {
                let _ = writeln!(text, "{}\n  {}", row.text(), row.failures.join("\n  "));
            }
        }
        assert!(text.is_empty(), "requests failed:\n{text}");
    }
}

impl Row {
    fn text(&self) -> String {
        let (fresh, kept) = (counts(&self.fresh), counts(&self.kept));
        format!("| {} | {fresh} | {kept} |", self.what)
    }
}

fn counts(counts: &Counts) -> String {
    let Counts {
        answered,
        refused,
        reset,
        timed_out,
        wrong,
        connections,
        ..
    } = counts;
    format!("{answered} over {connections} | {refused} / {reset} / {timed_out} / {wrong}")
}

fn say(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}

const HEAD: &str = "| | new: answered over connections | refused / reset / timed out / wrong | kept: answered over connections | refused / reset / timed out / wrong |";
/// Requests of each worker after a roll, which belong to it.
const AFTERWARDS: u64 = 10;
/// Longer than a worker's patience, on a busy machine.
const BOUND: Duration = Duration::from_secs(120);
