//! The parts of a JSON text, as slices of it: so that a page of hundreds of
//! objects is gone through without building any of them.
//!
//! Finds where values begin and end, and believes that what is between is JSON;
//! whoever reads a part finds out.

/// The members of an object: key (as it is written) and value.
pub(super) fn members(text: &[u8]) -> Option<Vec<(&[u8], &[u8])>> {
    let mut rest = Rest { text, at: 0 };
    let mut members = Vec::new();
    rest.expect(b'{')?;
    if rest.is_next(b'}') {
        return Some(members);
    }
    loop {
        let key = rest.value()?;
        rest.expect(b':')?;
        members.push((key, rest.value()?));
        if !rest.is_next(b',') {
            rest.expect(b'}')?;
            return Some(members);
        }
    }
}

/// The items of a list; none of `null`.
pub(super) fn items(text: &[u8]) -> Option<Vec<&[u8]>> {
    let mut rest = Rest { text, at: 0 };
    let mut items = Vec::new();
    if text.trim_ascii() == b"null" {
        return Some(items);
    }
    rest.expect(b'[')?;
    if rest.is_next(b']') {
        return Some(items);
    }
    loop {
        items.push(rest.value()?);
        if !rest.is_next(b',') {
            rest.expect(b']')?;
            return Some(items);
        }
    }
}

struct Rest<'t> {
    text: &'t [u8],
    at: usize,
}

impl<'t> Rest<'t> {
    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn skip_space(&mut self) {
        while self.peek().is_some_and(|byte| byte.is_ascii_whitespace()) {
            self.at += 1;
        }
    }

    /// Takes the byte if it is next.
    fn is_next(&mut self, byte: u8) -> bool {
        self.skip_space();
        let is = self.peek() == Some(byte);
        self.at += usize::from(is);
        is
    }

    fn expect(&mut self, byte: u8) -> Option<()> {
        self.is_next(byte).then_some(())
    }

    /// Takes a whole value.
    fn value(&mut self) -> Option<&'t [u8]> {
        self.skip_space();
        let start = self.at;
        match self.peek()? {
            b'"' => self.string()?,
            b'{' | b'[' => self.nested()?,
            _ => {
                let ends =
                    |byte: u8| matches!(byte, b',' | b'}' | b']') || byte.is_ascii_whitespace();
                while self.peek().is_some_and(|byte| !ends(byte)) {
                    self.at += 1;
                }
            }
        }
        self.text
            .get(start..self.at)
            .filter(|value| !value.is_empty())
    }

    fn string(&mut self) -> Option<()> {
        self.at += 1;
        loop {
            match self.peek()? {
                b'"' => {
                    self.at += 1;
                    return Some(());
                }
                b'\\' => self.at += 2,
                _ => self.at += 1,
            }
        }
    }

    fn nested(&mut self) -> Option<()> {
        let mut depth = 0_usize;
        loop {
            match self.peek()? {
                b'"' => {
                    self.string()?;
                    continue;
                }
                b'{' | b'[' => depth += 1,
                b'}' | b']' => depth = depth.checked_sub(1)?,
                _ => {}
            }
            self.at += 1;
            if depth == 0 {
                return Some(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{items, members};

    fn text(slice: &[u8]) -> &str {
        std::str::from_utf8(slice).unwrap()
    }

    #[test]
    fn parts_are_found_whatever_is_in_them() {
        let page =
            br#" {"a" : "x}\"]\\" ,"items":[{"b":[1,{"c":"]"}]} , 7,null],"e":{},"n":-1.5e3 }  "#;
        let found = members(page).unwrap();
        let shown: Vec<_> = found.iter().map(|(k, v)| (text(k), text(v))).collect();
        assert_eq!(
            shown,
            [
                (r#""a""#, r#""x}\"]\\""#),
                (r#""items""#, r#"[{"b":[1,{"c":"]"}]} , 7,null]"#),
                (r#""e""#, "{}"),
                (r#""n""#, "-1.5e3"),
            ]
        );
        let list: Vec<_> = items(found[1].1).unwrap().into_iter().map(text).collect();
        assert_eq!(list, [r#"{"b":[1,{"c":"]"}]}"#, "7", "null"]);
        assert_eq!(items(b"null"), Some(vec![]));
        assert_eq!(items(b" [ ] "), Some(vec![]));
        assert_eq!(members(b"{}"), Some(vec![]));
    }

    #[test]
    fn what_is_cut_or_no_object_is_none() {
        let whole = br#"{"metadata":{"a":"b\""},"items":[{"c":[]},{}]}"#;
        assert!(members(whole).is_some());
        for end in 0..whole.len() {
            assert_eq!(members(&whole[..end]), None, "{}", text(&whole[..end]));
        }
        for wrong in [
            &b"[]"[..],
            b"7",
            b"{7}",
            b"{\"a\":}",
            b"{\"a\" \"b\"}",
            b"{,}",
        ] {
            assert_eq!(members(wrong), None, "{}", text(wrong));
        }
        assert_eq!(items(b"{}"), None);
    }
}
