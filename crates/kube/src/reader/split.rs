//! Cuts a file into documents, without parsing them.
//!
//! A `---` at the start of a line always begins a document in YAML, whatever state the text before it is in (even
//! an open quote), so the cut is exact for good text and gives a fresh start after broken text.

/// One document's text, and where it is in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Document<'t> {
    /// With its `---`, if it has one.
    pub(super) text: &'t str,
    /// From 1, counting every `---`.
    pub(super) index: usize,
    /// The file's line of the text's first line, from 1.
    pub(super) first_line: usize,
}

impl Document<'_> {
    /// The file's line of the first line with content, from 1.
    pub(super) fn content_line(&self) -> usize {
        let before = self
            .text
            .lines()
            .take_while(|line| !has_content(line))
            .count();
        self.first_line + before
    }

    fn is_empty(&self) -> bool {
        !self.text.lines().any(has_content)
    }
}

/// The documents of a file that hold anything, in order.
pub(super) fn documents(text: &str) -> Vec<Document<'_>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut found = Vec::new();
    let mut open = Document {
        text: "",
        index: 0,
        first_line: 1,
    };
    let mut start = 0;
    let mut at = 0;
    for (number, line) in text.split_inclusive('\n').enumerate() {
        if is_marker(line, "---") || is_marker(line, "...") {
            close(&mut found, &mut open, text.get(start..at));
            open.first_line = number + 1;
            start = at;
            if is_marker(line, "...") {
                start += line.len();
                open.first_line += 1;
            }
        }
        at += line.len();
    }
    close(&mut found, &mut open, text.get(start..));
    found
}

/// Counts the text as a document unless nothing is in it and no `---` begins it.
fn close<'t>(found: &mut Vec<Document<'t>>, open: &mut Document<'t>, text: Option<&'t str>) {
    let Some(text) = text else { return };
    let document = Document {
        text,
        index: open.index + 1,
        ..*open
    };
    if !document.is_empty() {
        found.push(document);
    }
    if !document.is_empty() || text.starts_with("---") {
        open.index += 1;
    }
}

/// Whether a line is the given marker, alone or followed by a blank.
fn is_marker(line: &str, marker: &str) -> bool {
    line.strip_prefix(marker)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
}

/// Neither blank, nor a comment, a directive or a marker.
fn has_content(line: &str) -> bool {
    let line = if is_marker(line, "---") {
        line.get(3..).unwrap_or("")
    } else {
        line
    };
    let line = line.trim();
    !line.is_empty() && !line.starts_with('#') && !line.starts_with('%')
}
