//! Problems of one object, collected while it is translated.

use std::sync::Arc;

use ambit_kube::{Code, FieldLines, Kind, Located, ObjectKey, Origin, Problem, Severity};

/// Where the problems of one object go.
#[derive(Debug)]
pub(crate) struct Say {
    key: ObjectKey,
    origin: Origin,
    lines: FieldLines,
    problems: Vec<Problem>,
}

/// What is wrong with a field, and what to do.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fault<'a> {
    /// `spec.rules[0].from[0].source.principals[0]`.
    pub(crate) field: &'a str,
    /// As written; none where the lack of it is the fault.
    pub(crate) value: Option<&'a str>,
    /// One sentence without field and value.
    pub(crate) message: &'a str,
    /// What to do.
    pub(crate) remedy: &'a str,
}

impl Say {
    /// For one object.
    pub(crate) fn about<T>(kind: Kind, metadata: &Metadata<'_>, object: &Located<T>) -> Self {
        Self {
            key: ObjectKey::new(kind, metadata.namespace, metadata.name),
            origin: object.origin.clone(),
            lines: object.lines.clone(),
            problems: Vec::new(),
        }
    }

    /// For the mesh configuration, whose place the compiler knows.
    pub(crate) fn mesh() -> Self {
        Self {
            key: ObjectKey::new(Kind::MeshConfig, "", ""),
            origin: Origin {
                file: Arc::from(""),
                document: 0,
                line: 0,
            },
            lines: FieldLines::default(),
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

    /// What was said.
    pub(crate) fn done(self) -> Vec<Problem> {
        self.problems
    }

    /// The first error so far, in one line.
    pub(crate) fn first_error(&self) -> Option<String> {
        let mut errors = self.problems.iter();
        let first = errors.find(|problem| problem.severity == Severity::Error)?;
        Some(first.to_string())
    }

    fn push(&mut self, severity: Severity, code: Code, fault: Fault<'_>) {
        let line = self.lines.line_of(fault.field);
        self.problems.push(Problem {
            code,
            severity,
            key: Some(self.key.clone()),
            origin: line.map_or_else(|| self.origin.clone(), |line| self.origin.at_line(line)),
            field: (!fault.field.is_empty()).then(|| fault.field.to_owned()),
            value: fault.value.map(shown),
            message: fault.message.to_owned(),
            remedy: (!fault.remedy.is_empty()).then(|| fault.remedy.to_owned()),
        });
    }
}

/// An object's name and namespace.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Metadata<'a> {
    /// `default` where none is written, as with `kubectl`.
    pub(crate) namespace: &'a str,
    /// Its name.
    pub(crate) name: &'a str,
    /// `metadata.generation`, 0 where there is none.
    pub(crate) generation: i64,
}

impl<'a> Metadata<'a> {
    /// Of an object.
    pub(crate) fn of(meta: &'a ambit_kube::core::ObjectMeta) -> Self {
        let namespace = meta.namespace.as_deref().filter(|text| !text.is_empty());
        Self {
            namespace: namespace.unwrap_or("default"),
            name: meta.name.as_deref().unwrap_or_default(),
            generation: meta.generation.unwrap_or(0),
        }
    }

    /// Where resources made of it come from.
    pub(crate) fn origin(&self, kind: &str) -> ambit_proto::waypoint::Origin {
        ambit_proto::waypoint::Origin {
            kind: kind.to_owned(),
            namespace: self.namespace.to_owned(),
            name: self.name.to_owned(),
            generation: self.generation,
        }
    }
}

/// A value in a message, shortened.
fn shown(value: &str) -> String {
    const MOST: usize = 60;
    let mut text: String = value.chars().take(MOST).collect();
    if value.chars().nth(MOST).is_some() {
        text.push('…');
    }
    format!("\"{text}\"")
}
