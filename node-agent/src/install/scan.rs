//! Where the elements of an array stand in a text of JSON.
//!
//! Only for texts that a parser has accepted: this finds places, it doesn't
//! judge. Whatever the text, it ends and stays inside it.

/// Start and end, in bytes, of the elements of the array that the outermost
/// object has under `key`; none if there is no such array. Of several, the
/// last one counts, as for a parser.
pub(super) fn elements(text: &str, key: &str) -> Vec<(usize, usize)> {
    let mut scanner = Scanner {
        text: text.as_bytes(),
        at: 0,
    };
    let mut found = Vec::new();
    if !scanner.take(b'{') {
        return found;
    }
    while scanner.peek() == Some(b'"') {
        let name = scanner.value();
        // A key with an escape in it isn't one that we look for.
        let wanted = text.get(name.0 + 1..name.1.saturating_sub(1)) == Some(key);
        if !scanner.take(b':') {
            return found;
        }
        if wanted && scanner.peek() == Some(b'[') {
            found = scanner.array();
        } else {
            scanner.value();
        }
        if !scanner.take(b',') {
            break;
        }
    }
    found
}

struct Scanner<'a> {
    text: &'a [u8],
    at: usize,
}

impl Scanner<'_> {
    /// The next byte that isn't blank.
    fn peek(&mut self) -> Option<u8> {
        while let Some(byte) = self.text.get(self.at) {
            if !byte.is_ascii_whitespace() {
                return Some(*byte);
            }
            self.at += 1;
        }
        None
    }

    fn take(&mut self, wanted: u8) -> bool {
        let is_there = self.peek() == Some(wanted);
        self.at += usize::from(is_there);
        is_there
    }

    fn array(&mut self) -> Vec<(usize, usize)> {
        let mut elements = Vec::new();
        self.take(b'[');
        while self.peek().is_some_and(|byte| byte != b']') {
            elements.push(self.value());
            if !self.take(b',') {
                break;
            }
        }
        self.take(b']');
        elements
    }

    /// Passes over one value.
    fn value(&mut self) -> (usize, usize) {
        self.peek();
        let start = self.at;
        let mut depth = 0_usize;
        while let Some(byte) = self.text.get(self.at).copied() {
            match byte {
                b'"' => self.string(),
                b'{' | b'[' => {
                    depth += 1;
                    self.at += 1;
                }
                b'}' | b']' | b',' | b':' if depth == 0 => break,
                b'}' | b']' => {
                    depth -= 1;
                    self.at += 1;
                    if depth == 0 {
                        break;
                    }
                    continue;
                }
                _ if depth == 0 && byte.is_ascii_whitespace() => break,
                _ => self.at += 1,
            }
            if depth == 0 && byte == b'"' {
                break;
            }
        }
        (start, self.at)
    }

    fn string(&mut self) {
        self.at += 1;
        while let Some(byte) = self.text.get(self.at) {
            self.at += match byte {
                b'\\' => 2,
                _ => 1,
            };
            if *byte == b'"' {
                return;
            }
        }
        self.at = self.at.min(self.text.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts<'a>(text: &'a str, key: &str) -> Vec<&'a str> {
        elements(text, key)
            .into_iter()
            .map(|(start, end)| &text[start..end])
            .collect()
    }

    #[test]
    fn elements_of_every_kind_are_found() {
        let text = r#" { "a" : {"list": [9]}, "list" :[ 1 ,"x,]\\\"" , {"b":[1,{}]}, [ ] ,null,-1.5e3] , "z":[]}"#;
        let expected = [
            "1",
            r#""x,]\\\"""#,
            r#"{"b":[1,{}]}"#,
            "[ ]",
            "null",
            "-1.5e3",
        ];
        assert_eq!(texts(text, "list"), expected);
        assert_eq!(texts(text, "z"), [""; 0]);
        assert_eq!(texts(text, "b"), [""; 0]);
        assert_eq!(texts(r#"{"k":[1],"k":[2, 3]}"#, "k"), ["2", "3"]);
    }

    #[test]
    fn no_text_leads_out_of_itself() {
        let whole = r#"{"k": [ {"a": "\\\""}, "é\u0020" ], "x": [}]"#;
        for end in 0..=whole.len() {
            let Some(text) = whole.get(..end) else {
                continue;
            };
            for (start, end) in elements(text, "k") {
                assert!(start <= end && end <= text.len(), "{text}");
            }
        }
        for text in [
            "",
            "[",
            "{",
            "}",
            "{\"",
            "{\"k\"",
            "{\"k\":",
            "{\"k\":[,",
            "{:}",
            "\"\\",
        ] {
            let _ = elements(text, "k");
        }
    }
}
