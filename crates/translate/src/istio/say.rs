//! Diagnostics of one object, collected while it is translated.
//!
//! Owns how a problem is made: object, place of the field, value, remedy. It
//! doesn't own what is wrong; translators say so.

use ambit_kube::{Code, FieldLines, Located, ObjectKey, Origin, Problem, Severity};

/// Where the problems of one object go.
#[derive(Debug)]
pub(crate) struct Say {
    key: ObjectKey,
    origin: Origin,
    lines: FieldLines,
    quiet: bool,
    problems: Vec<Problem>,
}

/// What is wrong with a field, and what to do.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fault<'a> {
    /// `spec.http[0].timeout`.
    pub(crate) field: &'a str,
    /// As written, shortened when shown; empty text means that there is none.
    pub(crate) value: &'a str,
    /// One sentence without field and value.
    pub(crate) message: &'a str,
    /// What to do.
    pub(crate) remedy: &'a str,
}

impl Say {
    /// For one object.
    pub(crate) fn about<T>(key: ObjectKey, object: &Located<T>) -> Self {
        Self {
            key,
            origin: object.origin.clone(),
            lines: object.lines.clone(),
            quiet: false,
            problems: Vec::new(),
        }
    }

    /// For an object of which only the place is known.
    pub(crate) fn at(key: ObjectKey, origin: Origin) -> Self {
        Self {
            key,
            origin,
            lines: FieldLines::default(),
            quiet: false,
            problems: Vec::new(),
        }
    }

    /// A part isn't in force as written.
    pub(crate) fn error(&mut self, code: Code, fault: Fault<'_>) {
        self.push(Severity::Error, code, fault);
    }

    /// Likely not what was meant.
    pub(crate) fn warning(&mut self, code: Code, fault: Fault<'_>) {
        self.push(Severity::Warning, code, fault);
    }

    /// Worth knowing.
    pub(crate) fn info(&mut self, code: Code, fault: Fault<'_>) {
        self.push(Severity::Info, code, fault);
    }

    fn push(&mut self, severity: Severity, code: Code, fault: Fault<'_>) {
        if self.quiet {
            return;
        }
        let origin = self
            .lines
            .line_of(fault.field)
            .map_or_else(|| self.origin.clone(), |line| self.origin.at_line(line));
        self.problems.push(Problem {
            code,
            severity,
            key: Some(self.key.clone()),
            origin,
            field: (!fault.field.is_empty()).then(|| fault.field.to_owned()),
            value: (!fault.value.is_empty()).then(|| shortened(fault.value)),
            message: fault.message.to_owned(),
            remedy: (!fault.remedy.is_empty()).then(|| fault.remedy.to_owned()),
        });
    }

    /// For the same object, without what was said.
    pub(crate) fn fork(&self) -> Self {
        Self {
            key: self.key.clone(),
            origin: self.origin.clone(),
            lines: self.lines.clone(),
            quiet: self.quiet,
            problems: Vec::new(),
        }
    }

    /// For the same object, saying nothing.
    pub(crate) fn silent(&self) -> Self {
        Self {
            quiet: true,
            ..self.fork()
        }
    }

    /// Adds what another one was told.
    pub(crate) fn take(&mut self, other: Self) {
        self.problems.extend(other.problems);
    }

    /// All of them, in the order in which they were found.
    pub(crate) fn into_problems(self) -> Vec<Problem> {
        self.problems
    }
}

fn shortened(value: &str) -> String {
    const SHOWN: usize = 120;
    let mut shown: String = value.chars().take(SHOWN).collect();
    if shown.len() < value.len() {
        shown.push('…');
    }
    shown
}
