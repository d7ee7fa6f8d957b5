//! Finds JSON values in a stream of bytes.
//!
//! Requests follow each other without delimiter. A value begins with `{` or `[` and ends with the brace that closes it;
//! nothing else may stand between values but white space. Bytes are looked at once, however they arrive, and never more
//! than [`REQUEST_BYTES_MAX`] of them are kept.

/// The longest request: a configuration of some ten thousand objects fits.
pub const REQUEST_BYTES_MAX: usize = 4 << 20;

/// The deepest nesting of a request; the decoder recurses as deep.
const DEPTH_MAX: u32 = 100;

/// Why a stream cannot be read further.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum FramingError {
    /// A value began with something else than `{` or `[`.
    #[error("a request is a JSON object or an array of them")]
    NotAnObject,
    /// More than [`REQUEST_BYTES_MAX`] bytes without an end.
    #[error("a request has at most {} bytes", REQUEST_BYTES_MAX)]
    TooLong,
    /// Nested deeper than any request.
    #[error("nested deeper than {} levels", DEPTH_MAX)]
    TooDeep,
}

/// Cuts a stream into JSON texts.
#[derive(Debug, Default)]
pub(super) struct Framer {
    bytes: Vec<u8>,
    /// How many of `bytes` were looked at.
    scanned: usize,
    depth: u32,
    string: InString,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum InString {
    #[default]
    No,
    Yes,
    AfterBackslash,
}

impl Framer {
    /// Takes in what arrived.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Whether a request began and did not end yet.
    #[must_use]
    pub(super) fn is_partial(&self) -> bool {
        !self.bytes.is_empty()
    }

    /// The next whole value, or `None` until more arrives.
    ///
    /// # Errors
    /// After one the stream has no known position any more: close it.
    pub(super) fn next_value(&mut self) -> Result<Option<Vec<u8>>, FramingError> {
        if self.depth == 0 {
            self.skip_white_space();
        }
        while let Some(&byte) = self.bytes.get(self.scanned) {
            self.scanned += 1;
            if self.step(byte)? {
                let rest = self.bytes.split_off(self.scanned);
                self.scanned = 0;
                return Ok(Some(std::mem::replace(&mut self.bytes, rest)));
            }
            if self.scanned > REQUEST_BYTES_MAX {
                return Err(FramingError::TooLong);
            }
        }
        Ok(None)
    }

    fn skip_white_space(&mut self) {
        let blanks = self.bytes.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
        self.bytes.drain(..blanks);
    }

    /// Looks at one byte; true when it ends the value.
    fn step(&mut self, byte: u8) -> Result<bool, FramingError> {
        self.string = match (self.string, byte) {
            (InString::AfterBackslash, _) => InString::Yes,
            (InString::Yes, b'\\') => InString::AfterBackslash,
            (InString::Yes, b'"') => InString::No,
            (InString::Yes, _) => InString::Yes,
            (InString::No, b'"') if self.depth > 0 => InString::Yes,
            (InString::No, b'{' | b'[') if self.depth == DEPTH_MAX => return Err(FramingError::TooDeep),
            (InString::No, b'{' | b'[') => {
                self.depth += 1;
                InString::No
            }
            (InString::No, _) if self.depth == 0 => return Err(FramingError::NotAnObject),
            (InString::No, b'}' | b']') => {
                self.depth -= 1;
                return Ok(self.depth == 0);
            }
            (InString::No, _) => InString::No,
        };
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(framer: &mut Framer) -> Vec<String> {
        std::iter::from_fn(|| framer.next_value().expect("well formed"))
            .map(|value| String::from_utf8(value).expect("text"))
            .collect()
    }

    #[test]
    fn requests_without_delimiter_are_separated() {
        let mut framer = Framer::default();
        framer.push(b" {\"a\":1}{\"b\":[2]}\n[{}] {\"c\"");
        assert_eq!(values(&mut framer), ["{\"a\":1}", "{\"b\":[2]}", "[{}]"]);
        assert!(framer.is_partial());
    }

    #[test]
    fn braces_and_quotes_inside_strings_do_not_end_a_request() {
        let mut framer = Framer::default();
        framer.push(br#"{"a":"}\"]{\\"}"#);
        assert_eq!(values(&mut framer), [r#"{"a":"}\"]{\\"}"#]);
    }

    #[test]
    fn a_request_may_arrive_byte_by_byte() {
        let mut framer = Framer::default();
        let mut found = Vec::new();
        for byte in br#"{"a":"\"}"}{"b":{}}"# {
            framer.push(&[*byte]);
            found.extend(values(&mut framer));
        }
        assert_eq!(found, [r#"{"a":"\"}"}"#, r#"{"b":{}}"#]);
        assert!(!framer.is_partial());
    }

    #[test]
    fn a_request_without_end_is_refused_at_the_limit() {
        let mut framer = Framer::default();
        framer.push(b"{\"a\":\"");
        let chunk = vec![b'x'; 64 << 10];
        let error = (0..1000).find_map(|_| {
            framer.push(&chunk);
            framer.next_value().err()
        });
        assert_eq!(error, Some(FramingError::TooLong));
        assert!(framer.bytes.len() <= REQUEST_BYTES_MAX + chunk.len());
    }

    #[test]
    fn garbage_and_deep_nesting_are_refused() {
        for (bytes, error) in [
            (b"GET / HTTP/1.1".as_slice(), FramingError::NotAnObject),
            (b"}", FramingError::NotAnObject),
            (b"\"a\"", FramingError::NotAnObject),
            (&[b'['; 200], FramingError::TooDeep),
        ] {
            let mut framer = Framer::default();
            framer.push(bytes);
            assert_eq!(framer.next_value(), Err(error));
        }
    }
}
