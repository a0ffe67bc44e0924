//! Path templates (4.3): `{*}` is one segment that isn't empty, `{**}` is any
//! rest, possibly empty, and the last operator. Everything else is literal.

use std::fmt;
use std::sync::Arc;

/// A path with operators, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathTemplate {
    written: Arc<str>,
    pieces: Vec<Piece>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Literal(Box<str>),
    /// `{*}`.
    Segment,
    /// `{**}`; the literal after it ends the path.
    Rest(Box<str>),
}

/// Why a text isn't a path template.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTemplate {
    /// It must be absolute.
    #[error("a path template starts with /")]
    Relative,
    /// An operator is a whole segment.
    #[error("an operator must be a whole segment between slashes")]
    PartOfSegment,
    /// `{**}` must be the last operator.
    #[error("no operator may follow {{**}}")]
    AfterRest,
    /// `*` outside an operator.
    #[error("a template can't be mixed with the wildcard *")]
    Wildcard,
    /// Neither operator occurs.
    #[error("neither {{*}} nor {{**}} occurs")]
    NoOperator,
}

impl PathTemplate {
    /// Reads a template.
    ///
    /// # Errors
    /// For everything that 4.3 doesn't allow.
    pub fn parse(written: &str) -> Result<Self, InvalidTemplate> {
        let body = written.strip_prefix('/').ok_or(InvalidTemplate::Relative)?;
        let mut pieces = Vec::new();
        let mut literal = String::new();
        let mut rest = false;
        for segment in body.split('/') {
            literal.push('/');
            match segment {
                "{*}" | "{**}" if rest => return Err(InvalidTemplate::AfterRest),
                "{*}" => {
                    pieces.push(Piece::Literal(std::mem::take(&mut literal).into()));
                    pieces.push(Piece::Segment);
                }
                "{**}" => {
                    pieces.push(Piece::Literal(std::mem::take(&mut literal).into()));
                    rest = true;
                }
                _ if segment.contains("{*}") || segment.contains("{**}") => {
                    return Err(InvalidTemplate::PartOfSegment);
                }
                _ if segment.contains('*') => return Err(InvalidTemplate::Wildcard),
                _ => literal.push_str(segment),
            }
        }
        if rest {
            pieces.push(Piece::Rest(literal.into()));
        } else if pieces.is_empty() {
            return Err(InvalidTemplate::NoOperator);
        } else if !literal.is_empty() {
            pieces.push(Piece::Literal(literal.into()));
        }
        Ok(Self {
            written: written.into(),
            pieces,
        })
    }

    /// Whether a path, without its query, matches whole.
    pub fn matches(&self, path: &str) -> bool {
        let mut left = path;
        for piece in &self.pieces {
            match piece {
                Piece::Literal(text) => match left.strip_prefix(&**text) {
                    Some(after) => left = after,
                    None => return false,
                },
                Piece::Segment => {
                    let end = left.find('/').unwrap_or(left.len());
                    if end == 0 {
                        return false;
                    }
                    left = left.get(end..).unwrap_or("");
                }
                Piece::Rest(tail) => return left.ends_with(&**tail),
            }
        }
        left.is_empty()
    }
}

impl fmt::Display for PathTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.written)
    }
}

#[cfg(test)]
mod tests;
