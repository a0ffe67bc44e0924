//! The three streams of a program, passed in so that tests can be them.

use std::io::{Read, Write};
use std::path::Path;

use serde::Serialize;

use crate::exit::{Exit, Failure};

/// Results go to `output`, everything else to `notes`.
pub struct Streams<'s> {
    /// Standard input.
    pub input: &'s mut dyn Read,
    /// Standard output.
    pub output: &'s mut dyn Write,
    /// Standard error.
    pub notes: &'s mut dyn Write,
}

impl Streams<'_> {
    /// Writes one line, or several, of the result.
    pub(crate) fn say(&mut self, text: &str) -> Result<Exit, Failure> {
        writeln!(self.output, "{text}")
            .and_then(|()| self.output.flush())
            .map_err(Failure::Output)?;
        Ok(Exit::Ok)
    }

    /// Writes a note; nobody can be told when that fails.
    pub(crate) fn note(&mut self, text: &str) {
        if writeln!(self.notes, "{text}").is_err() {
            // Standard error is closed: there is no further place to say so.
        }
    }

    /// Writes a result as pretty JSON.
    pub(crate) fn say_json(&mut self, value: &impl Serialize) -> Result<Exit, Failure> {
        self.say(&serde_json::to_string_pretty(value).map_err(Failure::Json)?)
    }

    /// Writes a result as YAML.
    pub(crate) fn say_yaml(&mut self, value: &impl Serialize) -> Result<Exit, Failure> {
        self.say(serde_saphyr::to_string(value)?.trim_end())
    }

    /// The whole of standard input.
    pub(crate) fn read_input(&mut self) -> Result<String, Failure> {
        let mut text = String::new();
        self.input
            .read_to_string(&mut text)
            .map_err(|source| Failure::File {
                path: Path::new("-").to_owned(),
                source,
            })?;
        Ok(text)
    }
}
