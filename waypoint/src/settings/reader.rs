//! Reads variables and collects what is wrong with them.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use ambit_runtime::Env;

/// A setting that can't be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettingProblem {
    /// The variable.
    pub key: String,
    /// As it is set, unless that may be a secret.
    pub value: Option<String>,
    /// What is wrong, in words that follow the key.
    pub why: String,
}

/// Every setting that can't be used, in the order in which they were read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct SettingsError {
    /// At least one.
    pub problems: Vec<SettingProblem>,
}

impl fmt::Display for SettingsError {
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

pub(super) struct Reader<'e> {
    env: &'e dyn Env,
    problems: Vec<SettingProblem>,
}

impl<'e> Reader<'e> {
    pub(super) fn new(env: &'e dyn Env) -> Self {
        Self {
            env,
            problems: Vec::new(),
        }
    }

    /// The value unless it is unset or empty.
    pub(super) fn text(&self, key: &str) -> Option<String> {
        self.env.get(key).filter(|text| !text.is_empty())
    }

    pub(super) fn required(&mut self, key: &str) -> String {
        self.text(key).unwrap_or_else(|| {
            self.problem(key, "is not set; the pod's template names it");
            String::new()
        })
    }

    pub(super) fn optional<T>(
        &mut self,
        key: &str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let text = self.text(key)?;
        match parse(&text) {
            Ok(value) => Some(value),
            Err(why) => {
                self.problems.push(SettingProblem {
                    key: key.to_owned(),
                    value: Some(text),
                    why,
                });
                None
            }
        }
    }

    pub(super) fn or<T>(
        &mut self,
        key: &str,
        default: T,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> T {
        self.optional(key, parse).unwrap_or(default)
    }

    pub(super) fn problem(&mut self, key: &str, why: &str) {
        self.problems.push(SettingProblem {
            key: key.to_owned(),
            value: None,
            why: why.to_owned(),
        });
    }

    pub(super) fn finish<T>(self, value: T) -> Result<T, SettingsError> {
        if self.problems.is_empty() {
            Ok(value)
        } else {
            Err(SettingsError {
                problems: self.problems,
            })
        }
    }
}

pub(super) fn duration(text: &str) -> Result<Duration, String> {
    ambit_runtime::parse_duration(text)
        .map_err(|_| "is not a duration; write it as 10s, 5m or 250ms".to_owned())
}

pub(super) fn number<T: FromStr>(text: &str) -> Result<T, String> {
    text.parse()
        .map_err(|_| "is not a number of the right size".to_owned())
}

pub(super) fn port(text: &str) -> Result<u16, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err("is not a port from 1 to 65535".to_owned()),
        Ok(port) => Ok(port),
    }
}
