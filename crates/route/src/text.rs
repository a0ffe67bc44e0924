//! How one text is compared with another: exact, prefix, suffix, regex,
//! presence; with bounds on what a pattern may cost.

use regex::{Regex, RegexBuilder};

/// A comparison of configuration.
#[derive(Debug, Clone)]
pub enum Pattern {
    /// The whole text.
    Exact {
        /// Lower case where `fold`.
        text: Box<str>,
        /// ASCII case doesn't count.
        fold: bool,
    },
    /// Its beginning.
    Prefix {
        /// Lower case where `fold`.
        text: Box<str>,
        /// ASCII case doesn't count.
        fold: bool,
    },
    /// Its end.
    Suffix {
        /// Lower case where `fold`.
        text: Box<str>,
        /// ASCII case doesn't count.
        fold: bool,
    },
    /// The whole text, RE2 syntax.
    Regex(Regex),
    /// It is there.
    Presence,
}

/// A regular expression that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum InvalidPattern {
    /// It doesn't parse, or its program would be larger than the bound.
    #[error("regular expression {pattern:?}")]
    Regex {
        /// As written.
        pattern: Box<str>,
        /// What is wrong with it.
        source: Box<regex::Error>,
    },
    /// It is longer than any use has need for.
    #[error(
        "a regular expression of {length} bytes; the most is {}",
        MAX_REGEX_LENGTH
    )]
    TooLong {
        /// Bytes.
        length: usize,
    },
    /// Nothing is set.
    #[error("no comparison is set")]
    Nothing,
}

impl Pattern {
    /// Whether `text` matches; `bytes` because header values needn't be UTF-8
    /// (a regex doesn't match those that aren't).
    #[must_use]
    pub fn matches(&self, bytes: &[u8]) -> bool {
        match self {
            Self::Exact { text, fold } => equal(bytes, text.as_bytes(), *fold),
            Self::Prefix { text, fold } => bytes
                .get(..text.len())
                .is_some_and(|head| equal(head, text.as_bytes(), *fold)),
            Self::Suffix { text, fold } => bytes
                .len()
                .checked_sub(text.len())
                .and_then(|at| bytes.get(at..))
                .is_some_and(|tail| equal(tail, text.as_bytes(), *fold)),
            Self::Regex(regex) => std::str::from_utf8(bytes).is_ok_and(|text| regex.is_match(text)),
            Self::Presence => true,
        }
    }

    /// An exact, case-sensitive comparison.
    #[must_use]
    pub fn exact(text: &str) -> Self {
        Self::Exact {
            text: text.into(),
            fold: false,
        }
    }
}

fn equal(a: &[u8], b: &[u8], fold: bool) -> bool {
    if fold {
        a.eq_ignore_ascii_case(b)
    } else {
        a == b
    }
}

/// Compiles a pattern that must match the whole text.
pub(crate) fn whole(pattern: &str, fold: bool) -> Result<Regex, InvalidPattern> {
    compile(&format!("^(?:{pattern})$"), pattern, fold)
}

/// Compiles a pattern that may match anywhere.
pub(crate) fn anywhere(pattern: &str) -> Result<Regex, InvalidPattern> {
    compile(pattern, pattern, false)
}

fn compile(full: &str, pattern: &str, fold: bool) -> Result<Regex, InvalidPattern> {
    if pattern.len() > MAX_REGEX_LENGTH {
        return Err(InvalidPattern::TooLong {
            length: pattern.len(),
        });
    }
    // `^(?:a)|(b)$` would anchor halves: what is inside must stand alone.
    RegexBuilder::new(pattern)
        .size_limit(MAX_REGEX_PROGRAM)
        .build()
        .and_then(|_| {
            RegexBuilder::new(full)
                .case_insensitive(fold)
                .size_limit(MAX_REGEX_PROGRAM)
                .dfa_size_limit(MAX_REGEX_CACHE)
                .build()
        })
        .map_err(|error| InvalidPattern::Regex {
            pattern: pattern.into(),
            source: Box::new(error),
        })
}

/// Kubernetes validation allows 1,024 for paths and 4,096 for header values.
const MAX_REGEX_LENGTH: usize = 4096;
/// Bytes of a compiled program.
const MAX_REGEX_PROGRAM: usize = 1 << 20;
/// Bytes of the lazily built automaton of one thread.
const MAX_REGEX_CACHE: usize = 256 << 10;
