//! What is found while an object is translated: problems for people, and what
//! the conditions are made of.
//!
//! Owns how a problem is made (object, place of the field, value, remedy). It
//! doesn't own the conditions' words; `status` does.

use ambit_kube::{Code, FieldLines, Located, ObjectKey, Origin, Problem, Severity};

/// Findings of one object.
#[derive(Debug)]
pub(super) struct Report {
    key: ObjectKey,
    origin: Origin,
    lines: FieldLines,
    problems: Vec<Problem>,
    refs: Option<Failure>,
    rule: Option<Failure>,
    dropped: Option<Failure>,
}

/// A condition that doesn't hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    /// A word of the contract.
    pub(super) reason: &'static str,
    /// A sentence.
    pub(super) message: String,
}

/// What is wrong with a field, and what to do.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fault<'a> {
    /// `spec.rules[0].timeouts.request`.
    pub(super) field: &'a str,
    /// As written; empty: there is none.
    pub(super) value: &'a str,
    /// One sentence without field and value.
    pub(super) message: &'a str,
    /// What to do.
    pub(super) remedy: &'a str,
}

impl Report {
    /// For one object.
    pub(super) fn about<T>(key: ObjectKey, object: &Located<T>) -> Self {
        Self {
            key,
            origin: object.origin.clone(),
            lines: object.lines.clone(),
            problems: Vec::new(),
            refs: None,
            rule: None,
            dropped: None,
        }
    }

    /// A part isn't in force as written.
    pub(super) fn error(&mut self, code: Code, fault: Fault<'_>) {
        self.push(Severity::Error, code, fault);
    }

    /// Likely not what was meant.
    pub(super) fn warning(&mut self, code: Code, fault: Fault<'_>) {
        self.push(Severity::Warning, code, fault);
    }

    /// Worth knowing.
    pub(super) fn info(&mut self, code: Code, fault: Fault<'_>) {
        self.push(Severity::Info, code, fault);
    }

    /// A reference that can't be followed: `ResolvedRefs` is false with the
    /// first such reason.
    pub(super) fn unresolved(&mut self, reason: &'static str, code: Code, fault: Fault<'_>) {
        self.refs.get_or_insert_with(|| failure(reason, fault));
        self.error(code, fault);
    }

    /// The rule that is being read can't be used as a whole.
    pub(super) fn unusable(&mut self, reason: &'static str, code: Code, fault: Fault<'_>) {
        self.rule.get_or_insert_with(|| failure(reason, fault));
        self.error(code, fault);
    }

    /// The rule that is being read answers an error, though it is accepted: it
    /// refers to what isn't there. Says nothing by itself.
    pub(super) fn block(&mut self, fault: Fault<'_>) {
        self.rule.get_or_insert_with(|| failure(BLOCKED, fault));
    }

    /// A match that can't be read is left out of its rule.
    pub(super) fn dropped(&mut self, code: Code, fault: Fault<'_>) {
        self.dropped
            .get_or_insert_with(|| failure("UnsupportedValue", fault));
        self.error(code, fault);
    }

    /// Why the rule (or backend) that is being read can't be used; the next
    /// starts afresh.
    pub(super) fn take_rule(&mut self) -> Option<Failure> {
        self.rule.take()
    }

    /// Puts back what was taken so that a part could be judged by itself.
    pub(super) fn put_rule(&mut self, failure: Option<Failure>) {
        if failure.is_some() {
            self.rule = failure;
        }
    }

    /// The first match that was left out; the next reading starts afresh.
    pub(super) fn take_dropped(&mut self) -> Option<Failure> {
        self.dropped.take()
    }

    /// The first reference that can't be followed; the next reading starts afresh.
    pub(super) fn take_refs(&mut self) -> Option<Failure> {
        self.refs.take()
    }

    /// Problems that were found by others, of this object.
    pub(super) fn extend(&mut self, problems: Vec<Problem>) {
        self.problems.extend(problems);
    }

    /// All problems, each once, in the order in which they were found.
    pub(super) fn into_problems(self) -> Vec<Problem> {
        let mut once: Vec<Problem> = Vec::with_capacity(self.problems.len());
        for problem in self.problems {
            if !once.contains(&problem) {
                once.push(problem);
            }
        }
        once
    }

    fn push(&mut self, severity: Severity, code: Code, fault: Fault<'_>) {
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
}

impl Failure {
    /// Whether it makes a difference to `Accepted`: an unresolved reference
    /// makes one to `ResolvedRefs` only.
    pub(super) fn refuses(&self) -> bool {
        self.reason != BLOCKED
    }
}

fn failure(reason: &'static str, fault: Fault<'_>) -> Failure {
    let value = if fault.value.is_empty() {
        String::new()
    } else {
        format!(" {:?}", shortened(fault.value))
    };
    Failure {
        reason,
        message: format!("{}{value}: {}", fault.field, fault.message),
    }
}

/// The reason of a rule that refers to what isn't there.
const BLOCKED: &str = "InvalidKind";

fn shortened(value: &str) -> String {
    const SHOWN: usize = 120;
    let mut shown: String = value.chars().take(SHOWN).collect();
    if shown.len() < value.len() {
        shown.push('…');
    }
    shown
}
