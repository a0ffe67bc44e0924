//! Reads single variables and remembers every one that doesn't follow its rule.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use ambit_runtime::Env;

use super::Listen;

/// One setting that can't be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The variable, or the document's key.
    pub key: String,
    /// Its value, unless it may be a secret.
    pub value: Option<String>,
    /// What is wrong, in words that follow the key.
    pub why: String,
}

/// Every setting that can't be used, in the order in which they were read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError {
    /// At least one.
    pub problems: Vec<Problem>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bad setting(s):", self.problems.len())?;
        for problem in &self.problems {
            match &problem.value {
                Some(value) => write!(f, "\n  {}={value:?}: {}", problem.key, problem.why)?,
                None => write!(f, "\n  {}: {}", problem.key, problem.why)?,
            }
        }
        Ok(())
    }
}

/// An environment, and the problems found in it so far.
pub(crate) struct Reader<'e> {
    env: &'e dyn Env,
    problems: Vec<Problem>,
}

impl<'e> Reader<'e> {
    pub(crate) fn new(env: &'e dyn Env) -> Self {
        Self {
            env,
            problems: Vec::new(),
        }
    }

    /// The value as it is, empty included.
    pub(crate) fn raw(&self, key: &str) -> Option<String> {
        self.env.get(key)
    }

    /// The value unless it is unset or empty.
    pub(crate) fn text(&self, key: &str) -> Option<String> {
        self.env.get(key).and_then(nonempty)
    }

    /// A parsed value, if there is one.
    pub(crate) fn optional<T>(
        &mut self,
        key: &str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let text = self.text(key)?;
        match parse(&text) {
            Ok(value) => Some(value),
            Err(why) => {
                self.problems.push(Problem {
                    key: key.to_owned(),
                    value: Some(text),
                    why,
                });
                None
            }
        }
    }

    /// A parsed value, or what stands in for it.
    pub(crate) fn or<T>(
        &mut self,
        key: &str,
        default: T,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> T {
        self.optional(key, parse).unwrap_or(default)
    }

    /// Variables with a prefix, the prefix removed.
    pub(crate) fn prefixed(&self, prefix: &str) -> Vec<(String, String)> {
        let all = self.env.all().into_iter();
        all.filter_map(|(key, value)| Some((key.strip_prefix(prefix)?.to_owned(), value)))
            .collect()
    }

    /// Notes a problem with a variable whose value isn't repeated.
    pub(crate) fn problem(&mut self, key: &str, why: &str) {
        self.problems.push(Problem {
            key: key.to_owned(),
            value: None,
            why: why.to_owned(),
        });
    }

    pub(crate) fn finish<T>(self, value: T) -> Result<T, ConfigError> {
        if self.problems.is_empty() {
            Ok(value)
        } else {
            Err(ConfigError {
                problems: self.problems,
            })
        }
    }
}

pub(crate) fn nonempty(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

pub(crate) fn boolean(text: &str) -> Result<bool, String> {
    text.parse()
        .map_err(|_| "is neither true nor false".to_owned())
}

pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    ambit_runtime::parse_duration(text)
        .map_err(|_| "is not a duration; write it as 10s, 5m or 250ms".to_owned())
}

pub(crate) fn number<T: FromStr>(text: &str) -> Result<T, String> {
    text.parse()
        .map_err(|_| "is not a number of the right size".to_owned())
}

/// `localhost:PORT` or `IP:PORT`.
pub(crate) fn address(text: &str, ipv6: bool) -> Result<Listen, String> {
    match text.split_once(':') {
        Some(("localhost", port)) => Ok(Listen::Localhost(ipv6, number(port)?)),
        _ => text
            .parse()
            .map(Listen::Address)
            .map_err(|_| "is neither localhost:PORT nor IP:PORT".to_owned()),
    }
}
