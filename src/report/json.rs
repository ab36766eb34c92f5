//! Just enough JSON to write one report object (RFC 8259). Nothing is read, and the values are a few strings and
//! numbers, so a serialisation library would weigh more than it saves.

use std::fmt::Write;

/// A JSON object under construction; keys appear in the order they are put.
#[derive(Debug, Default)]
pub(crate) struct Object {
    /// `"key":value` pairs so far, separated by commas.
    body: String,
}

impl Object {
    /// Puts a whole number.
    pub fn number(&mut self, key: &str, value: u64) {
        self.put(key, &value.to_string());
    }

    /// Puts a fraction with three decimals; JSON has no infinity, so what is not finite becomes null.
    pub fn fraction(&mut self, key: &str, value: f64) {
        match value.is_finite() {
            true => self.put(key, &format!("{value:.3}")),
            false => self.put(key, "null"),
        }
    }

    /// Puts a string.
    pub fn text(&mut self, key: &str, value: &str) {
        self.put(key, &quote(value));
    }

    /// Puts a string, or null.
    pub fn text_or_null(&mut self, key: &str, value: Option<&str>) {
        match value {
            Some(value) => self.text(key, value),
            None => self.put(key, "null"),
        }
    }

    /// Puts a number, or null.
    pub fn number_or_null(&mut self, key: &str, value: Option<u64>) {
        match value {
            Some(value) => self.number(key, value),
            None => self.put(key, "null"),
        }
    }

    /// Puts a list of strings.
    pub fn texts(&mut self, key: &str, values: &[&str]) {
        let quoted: Vec<String> = values.iter().map(|value| quote(value)).collect();
        self.put(key, &format!("[{}]", quoted.join(",")));
    }

    /// Puts an object.
    pub fn object(&mut self, key: &str, value: Object) {
        self.put(key, &value.close());
    }

    /// The finished object.
    pub fn close(self) -> String {
        format!("{{{}}}", self.body)
    }

    fn put(&mut self, key: &str, value: &str) {
        if !self.body.is_empty() {
            self.body.push(',');
        }
        self.body.push_str(&quote(key));
        self.body.push(':');
        self.body.push_str(value);
    }
}

/// A JSON string: quote, backslash and control characters escaped.
fn quote(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            c if (c as u32) < 0x20 => {
                // Writing to a String cannot fail.
                let _ = write!(quoted, "\\u{:04x}", c as u32);
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_escaped_and_in_order() {
        let mut inner = Object::default();
        inner.fraction("rate", 1.5);
        inner.fraction("none", f64::INFINITY);
        let mut object = Object::default();
        object.number("n", u64::MAX);
        object.text("path", "a\"b\\c\n\u{1f}\u{e4}");
        object.text_or_null("why", None);
        object.object("inner", inner);
        let expected = concat!(
            r#"{"n":18446744073709551615,"path":"a\"b\\c\u000a\u001fä","why":null,"#,
            r#""inner":{"rate":1.500,"none":null}}"#
        );
        assert_eq!(object.close(), expected);
        assert_eq!(Object::default().close(), "{}");
    }
}
