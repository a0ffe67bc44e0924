//! Names that others choose, as values of metric labels: so many and no more.

use std::collections::HashSet;

use parking_lot::Mutex;

/// The values that one label has had so far.
#[derive(Debug, Default)]
pub(crate) struct Names(Mutex<HashSet<String>>);

impl Names {
    /// The name as a label's value: itself, or `(other)` if it is new and there
    /// are [`MOST`] already, or longer than [`LONGEST`] bytes.
    pub(crate) fn label(&self, name: &str) -> String {
        if name.len() > LONGEST {
            return OTHER.to_owned();
        }
        let mut known = self.0.lock();
        if !known.contains(name) {
            if known.len() >= MOST {
                return OTHER.to_owned();
            }
            known.insert(name.to_owned());
        }
        name.to_owned()
    }
}

const OTHER: &str = "(other)";
/// Values of one label.
const MOST: usize = 64;
/// Bytes of one value; resource names are a few of 253 at most.
const LONGEST: usize = 512;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_so_many_and_no_more() {
        let names = Names::default();
        for at in 0..MOST {
            assert_eq!(names.label(&at.to_string()), at.to_string());
        }
        assert_eq!(names.label("another"), OTHER);
        assert_eq!(names.label("7"), "7");
        assert_eq!(Names::default().label(&"x".repeat(LONGEST + 1)), OTHER);
    }
}
