//! What is wrong, or doubtful, with a document.

use std::fmt;

use serde::{Serialize, Serializer};

use crate::{ObjectKey, Origin};

/// How bad it is; ordered, so that thresholds compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub enum Severity {
    /// Worth knowing.
    Info,
    /// Likely not what was meant.
    Warning,
    /// The object, or a part of it, isn't in force as written.
    Error,
}

impl Severity {
    /// `Info`, `Warning` or `Error`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Info => "Info",
            Self::Warning => "Warning",
            Self::Error => "Error",
        }
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A stable code of a problem or diagnostic: `AMB` and four digits, or an upstream `IST` code where one fits.
///
/// All codes are listed in `docs/diagnostics.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Code(pub &'static str);

impl Code {
    /// A document isn't well-formed YAML or JSON.
    pub const BROKEN_YAML: Self = Self("AMB0101");
    /// A document isn't an object: a list or a scalar at the top, or no `kind`.
    pub const NOT_AN_OBJECT: Self = Self("AMB0102");
    /// A kind that nobody seems to know.
    pub const UNKNOWN_KIND: Self = Self("AMB0103");
    /// A kind that exists, but that Ambit doesn't read.
    pub const KIND_NOT_READ: Self = Self("AMB0104");
    /// A known kind under an `apiVersion` that isn't its own.
    pub const WRONG_API_VERSION: Self = Self("AMB0105");
    /// A field that the kind doesn't have.
    pub const UNKNOWN_FIELD: Self = Self("AMB0106");
    /// A value of the wrong type or not among the allowed ones.
    pub const WRONG_TYPE: Self = Self("AMB0107");
    /// A required field is missing.
    pub const MISSING_FIELD: Self = Self("AMB0108");
    /// A name or namespace that Kubernetes wouldn't accept.
    pub const BAD_NAME: Self = Self("AMB0109");
    /// A policy field that is written but empty.
    pub const EMPTY_VALUE: Self = Self("AMB0110");
    /// One object in two places.
    pub const DUPLICATE_OBJECT: Self = Self("AMB0111");
    /// A field of another product or version that is accepted and not used.
    pub const FIELD_NOT_USED: Self = Self("AMB0112");
    /// A file that can't be read from the disk.
    pub const UNREADABLE_FILE: Self = Self("AMB0121");
    /// A file above the size bound.
    pub const FILE_TOO_LARGE: Self = Self("AMB0122");
    /// Objects kept in their last good form because their file or document can't be read at the moment.
    pub const LAST_GOOD_KEPT: Self = Self("AMB0123");

    /// The code as text.
    pub fn as_str(self) -> &'static str {
        self.0
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl Serialize for Code {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0)
    }
}

/// One thing that is wrong, or doubtful, with a document or file, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The stable code.
    pub code: Code,
    /// How bad it is.
    pub severity: Severity,
    /// Whose problem, as far as that could be read.
    pub key: Option<ObjectKey>,
    /// File, document, and the line of the field where that is known.
    pub origin: Origin,
    /// The field, written `spec.rules[0].from[1].source.principals[0]`.
    pub field: Option<String>,
    /// The offending value, shortened.
    pub value: Option<String>,
    /// What is wrong, in one sentence without the field, value and place.
    pub message: String,
    /// What to do.
    pub remedy: Option<String>,
}

/// The message with field, value and remedy, on one line; the place isn't part of it.
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match (&self.field, &self.value) {
            (Some(field), Some(value)) => write!(f, " (field {field}, value {value})")?,
            (Some(field), None) => write!(f, " (field {field})")?,
            (None, Some(value)) => write!(f, " (value {value})")?,
            (None, None) => {}
        }
        if let Some(remedy) = &self.remedy {
            write!(f, ": {remedy}")?;
        }
        Ok(())
    }
}
