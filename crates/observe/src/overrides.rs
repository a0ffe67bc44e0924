//! What a Telemetry resource changes about metrics (`waypoint-contract` 6.5):
//! metrics that are switched off, labels that are removed or set.

use std::borrow::Cow;
use std::sync::Arc;

use ambit_proto::waypoint as pb;

use crate::expr::{Expression, InvalidExpression};
use crate::metrics::is_metric;
use crate::record::Record;

/// Most labels that can be set.
const MAX_VALUES: usize = 32;
/// Longest value of a label that an expression sets, in bytes.
const MAX_VALUE: usize = 256;

/// The overrides of one frontend. Compared by address: every decoded resource
/// has its own series.
#[derive(Debug)]
pub struct MetricOverrides {
    changes: Vec<Change>,
    values: Vec<Expression>,
}

#[derive(Debug)]
struct Change {
    /// Name of the Telemetry API; empty: all.
    metric: String,
    disabled: bool,
    tags: Vec<(String, Tag)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tag {
    Remove,
    /// By its place in `values`.
    Set(usize),
}

impl PartialEq for MetricOverrides {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
    }
}

impl Eq for MetricOverrides {}

impl std::hash::Hash for MetricOverrides {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        std::ptr::from_ref(self).addr().hash(state);
    }
}

/// Why overrides can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidOverride {
    /// A metric that there isn't.
    #[error("metrics[{0}].metric: {1:?} is not a metric")]
    Metric(usize, String),
    /// A label's name.
    #[error("metrics[{0}].tags: {1:?} is not a label name")]
    Name(usize, String),
    /// A label's value.
    #[error("metrics[{index}].tags[{tag}].value")]
    Value {
        /// The override's place, from 0.
        index: usize,
        /// The label.
        tag: String,
        /// What is wrong with it.
        source: InvalidExpression,
    },
    /// More labels than are taken.
    #[error("metrics: more than {MAX_VALUES} labels are set")]
    TooMany,
}

impl MetricOverrides {
    /// Reads overrides; none if there is nothing to change.
    ///
    /// # Errors
    /// The first that can't be used.
    pub fn decode(
        wire: &[pb::MetricOverride],
        disabled: bool,
    ) -> Result<Option<Arc<Self>>, InvalidOverride> {
        let mut own = Self {
            changes: Vec::new(),
            values: Vec::new(),
        };
        if disabled {
            own.changes.push(Change {
                metric: String::new(),
                disabled: true,
                tags: Vec::new(),
            });
        }
        for (index, one) in wire.iter().enumerate() {
            let all = one.metric.is_empty() || one.metric == "ALL_METRICS";
            if !all && !is_metric(&one.metric) {
                return Err(InvalidOverride::Metric(index, one.metric.clone()));
            }
            let tags = one.tags.iter().map(|tag| own.read_tag(index, tag));
            let tags = tags.collect::<Result<_, _>>()?;
            own.changes.push(Change {
                metric: if all {
                    String::new()
                } else {
                    one.metric.clone()
                },
                disabled: one.disabled,
                tags,
            });
        }
        if own.values.len() > MAX_VALUES {
            return Err(InvalidOverride::TooMany);
        }
        Ok((!own.changes.is_empty()).then(|| Arc::new(own)))
    }

    fn read_tag(
        &mut self,
        index: usize,
        tag: &pb::TagOverride,
    ) -> Result<(String, Tag), InvalidOverride> {
        let mut bytes = tag.name.bytes();
        let good = bytes
            .next()
            .is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
            && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_');
        // `le` is the histograms' own.
        if !good || tag.name == "le" {
            return Err(InvalidOverride::Name(index, tag.name.clone()));
        }
        if tag.remove {
            return Ok((tag.name.clone(), Tag::Remove));
        }
        let value = tag.value.parse().map_err(|source| InvalidOverride::Value {
            index,
            tag: tag.name.clone(),
            source,
        })?;
        self.values.push(value);
        Ok((tag.name.clone(), Tag::Set(self.values.len() - 1)))
    }

    pub(crate) fn has_values(&self) -> bool {
        !self.values.is_empty()
    }

    /// The values of all expressions for one request.
    pub(crate) fn values(&self, record: &Record<'_>) -> Box<[Arc<str>]> {
        let value = |one: &Expression| {
            let mut text = one.value(record).text();
            let mut end = text.len().min(MAX_VALUE);
            while !text.is_char_boundary(end) {
                end -= 1;
            }
            text.truncate(end);
            text.into()
        };
        self.values.iter().map(value).collect()
    }

    fn of<'s>(&'s self, api: &'s str) -> impl Iterator<Item = &'s Change> {
        let mut changes = self.changes.iter();
        std::iter::from_fn(move || {
            changes.find(|change| change.metric.is_empty() || change.metric == api)
        })
    }

    /// Whether a metric isn't written; the last word counts.
    pub(crate) fn disables(&self, api: &str) -> bool {
        self.of(api).last().is_some_and(|change| change.disabled)
    }

    pub(crate) fn apply(
        &self,
        api: &str,
        values: &[Arc<str>],
        labels: &mut Vec<(Cow<'static, str>, String)>,
    ) {
        for (name, tag) in self.of(api).flat_map(|change| &change.tags) {
            match tag {
                Tag::Remove => labels.retain(|(label, _)| label != name),
                Tag::Set(at) => {
                    let value = values.get(*at).map_or("unknown", |value| value);
                    let value = if value.is_empty() { "unknown" } else { value };
                    match labels.iter_mut().find(|(label, _)| label == name) {
                        Some((_, old)) => value.clone_into(old),
                        None => labels.push((Cow::Owned(name.clone()), value.to_owned())),
                    }
                }
            }
        }
    }
}
