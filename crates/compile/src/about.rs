//! Diagnostics about one object, with the place of the field that they are about.

use ambit_kube::{Code, Located, ObjectKey, Problem, Severity};

/// An object that something is to be said about.
pub(crate) struct About<'a, T> {
    pub(crate) key: &'a ObjectKey,
    pub(crate) object: &'a Located<T>,
}

/// Two references, whatever they are of.
impl<T> Clone for About<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for About<'_, T> {}

impl<T> About<'_, T> {
    pub(crate) fn error(&self, code: Code, field: &str, message: impl Into<String>) -> Told {
        self.say(Severity::Error, code, field, message.into())
    }

    pub(crate) fn warning(&self, code: Code, field: &str, message: impl Into<String>) -> Told {
        self.say(Severity::Warning, code, field, message.into())
    }

    pub(crate) fn info(&self, code: Code, field: &str, message: impl Into<String>) -> Told {
        self.say(Severity::Info, code, field, message.into())
    }

    fn say(&self, severity: Severity, code: Code, field: &str, message: String) -> Told {
        Told(Problem {
            code,
            severity,
            key: Some(self.key.clone()),
            origin: self.object.origin_of(field),
            field: (!field.is_empty()).then(|| field.to_owned()),
            value: None,
            message,
            remedy: None,
        })
    }
}

/// A diagnostic in the making.
#[must_use]
pub(crate) struct Told(Problem);

impl Told {
    /// The offending value, shortened.
    pub(crate) fn value(mut self, value: &str) -> Self {
        const SHOWN: usize = 120;
        if value.is_empty() {
            self.0.value = Some("\"\"".to_owned());
            return self;
        }
        let mut shown: String = value.chars().take(SHOWN).collect();
        if shown.len() < value.len() {
            shown.push('…');
        }
        self.0.value = Some(shown);
        self
    }

    /// What to do; completes the diagnostic.
    pub(crate) fn remedy(mut self, remedy: impl Into<String>) -> Problem {
        self.0.remedy = Some(remedy.into());
        self.0
    }
}
