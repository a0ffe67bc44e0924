//! The process and the data-plane runtimes, read on each scrape.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use tokio::runtime::Handle;

/// `process_*` and `tokio_*` (`ztunnel-contract` 9.3). With one runtime per
/// data thread, each runtime is one worker.
#[derive(Debug, Default)]
pub struct ProcessCollector {
    runtimes: Vec<Handle>,
}

impl ProcessCollector {
    /// Reports this process and these runtimes.
    pub fn new(runtimes: Vec<Handle>) -> Self {
        Self { runtimes }
    }
}

impl Collector for ProcessCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut gauge = |name: &str, help: &str, value: u64| -> fmt::Result {
            let value = i64::try_from(value).unwrap_or(i64::MAX);
            encoder
                .encode_descriptor(name, help, None, MetricType::Gauge)?
                .encode_gauge(&value)
        };
        if let Some(open) = open_descriptors() {
            gauge("process_open_fds", "Number of open file descriptors", open)?;
        }
        if let Some(limit) = descriptor_limit() {
            gauge(
                "process_max_fds",
                "Maximum number of open file descriptors",
                limit,
            )?;
        }
        if self.runtimes.is_empty() {
            return Ok(());
        }
        let sum = |of: fn(&tokio::runtime::RuntimeMetrics) -> usize| -> u64 {
            self.runtimes.iter().map(|r| of(&r.metrics()) as u64).sum()
        };
        gauge(
            "tokio_num_workers",
            "Number of data threads",
            self.runtimes.len() as u64,
        )?;
        gauge(
            "tokio_global_queue_depth",
            "Tasks in the injection queues",
            sum(|m| m.global_queue_depth()),
        )?;
        gauge(
            "tokio_num_alive_tasks",
            "Tasks that are alive",
            sum(|m| m.num_alive_tasks()),
        )?;
        self.encode_workers(&mut encoder)
    }
}

impl ProcessCollector {
    fn encode_workers(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let mut busy = encoder.encode_descriptor(
            "tokio_worker_total_busy_duration_seconds",
            "Time that each data thread was busy",
            None,
            MetricType::Counter,
        )?;
        for (worker, runtime) in self.runtimes.iter().enumerate() {
            let seconds = runtime
                .metrics()
                .worker_total_busy_duration(0)
                .as_secs_f64();
            busy.encode_family(&[("worker", worker)])?
                .encode_counter::<NoLabelSet, _, u64>(&seconds, None)?;
        }
        type Count = fn(&Handle) -> u64;
        let parks: [(&str, &str, Count); 2] = [
            (
                "tokio_worker_park_count",
                "How often each data thread parked",
                |r| r.metrics().worker_park_count(0),
            ),
            (
                "tokio_worker_park_unpark_count",
                "How often each data thread parked or unparked",
                |r| r.metrics().worker_park_unpark_count(0),
            ),
        ];
        for (name, help, of) in parks {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for (worker, runtime) in self.runtimes.iter().enumerate() {
                family
                    .encode_family(&[("worker", worker)])?
                    .encode_counter::<NoLabelSet, _, u64>(&of(runtime), None)?;
            }
        }
        Ok(())
    }
}

fn open_descriptors() -> Option<u64> {
    // One entry is the directory's own descriptor.
    let entries = std::fs::read_dir("/proc/self/fd").ok()?.count() as u64;
    Some(entries.saturating_sub(1))
}

fn descriptor_limit() -> Option<u64> {
    let limits = std::fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits.lines().find(|l| l.starts_with("Max open files"))?;
    line.split_whitespace().nth(3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Metrics;

    #[tokio::test]
    async fn the_process_and_its_runtime_are_reported() {
        let mut metrics = Metrics::new();
        metrics.register_collector(ProcessCollector::new(vec![Handle::current()]));
        let text = metrics.encode().unwrap();
        for name in [
            "process_open_fds ",
            "process_max_fds ",
            "tokio_num_workers 1",
            "tokio_worker_park_count_total{worker=\"0\"}",
        ] {
            assert!(text.contains(name), "{name} not in {text}");
        }
    }
}
