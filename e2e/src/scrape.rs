//! Reading a proxy's own words: metrics and configuration dump.

use std::collections::BTreeMap;

/// A metrics exposition, by sample.
#[derive(Debug, Clone, Default)]
pub struct Samples(Vec<(String, BTreeMap<String, String>, f64)>);

impl Samples {
    /// Parses the text format.
    pub fn parse(text: &str) -> Self {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        Self(lines.filter_map(sample).collect())
    }

    /// The sum of a metric's samples that carry all these labels.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let matches = |have: &BTreeMap<String, String>| {
            labels
                .iter()
                .all(|(k, v)| have.get(*k).is_some_and(|value| value == v))
        };
        self.0
            .iter()
            .filter(|(n, l, _)| n == name && matches(l))
            .map(|(_, _, value)| value)
            .sum()
    }

    /// Samples of a metric.
    pub fn of<'a>(
        &'a self,
        name: &'a str,
    ) -> impl Iterator<Item = (&'a BTreeMap<String, String>, f64)> {
        self.0
            .iter()
            .filter(move |(n, _, _)| n == name)
            .map(|(_, labels, value)| (labels, *value))
    }
}

fn sample(line: &str) -> Option<(String, BTreeMap<String, String>, f64)> {
    let (head, value) = line.rsplit_once(' ')?;
    let (name, labels) = match head.split_once('{') {
        Some((name, labels)) => (name, labels.strip_suffix('}')?),
        None => (head, ""),
    };
    let pairs = labels
        .split("\",")
        .filter_map(|pair| pair.split_once("=\""));
    let labels = pairs
        .map(|(k, v)| (k.to_owned(), v.trim_end_matches('"').to_owned()))
        .collect();
    Some((name.to_owned(), labels, value.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_summed_by_labels() {
        let text = "# HELP a b\na_total{x=\"1\",y=\"p,q\"} 2\na_total{x=\"1\",y=\"z\"} 3\nb 4.5\n";
        let samples = Samples::parse(text);
        assert_eq!(samples.sum("a_total", &[("x", "1")]), 5.0);
        assert_eq!(samples.sum("a_total", &[("y", "p,q")]), 2.0);
        assert_eq!(samples.sum("b", &[]), 4.5);
        assert_eq!(samples.of("a_total").count(), 2);
    }
}
