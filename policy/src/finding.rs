//! What exactly ended a session, for the operator: the message, the field and the byte, the rule and its limit. And the only
//! way in which text that a peer chose gets there, or anywhere else where somebody may read it.

use core::fmt::{self, Write};

/// Most characters of a peer's text that are shown.
pub const SHOWN_MAX: usize = 80;

/// Text from a peer, fit to be shown: printable ASCII as it is, everything else escaped as `\u{..}` (control characters,
/// terminal sequences, marks that turn the direction of text, look-alikes), a backslash doubled, and no more than
/// [`SHOWN_MAX`] characters of the result, `...` for the rest.
pub fn clean(text: &str) -> String {
    let mut shown = String::new();
    for character in text.chars() {
        let begin = shown.len();
        match character {
            '\\' => shown.push_str("\\\\"),
            ' '..='~' => shown.push(character),
            // Writing to a string does not fail.
            _ => drop(write!(shown, "{}", character.escape_unicode())),
        }
        if shown.len() > SHOWN_MAX {
            shown.truncate(begin);
            shown.push_str("...");
            break;
        }
    }
    shown
}

/// The same for bytes that may be no text at all.
pub fn clean_bytes(bytes: &[u8]) -> String {
    // A character takes at most four bytes, so that what is cut here would not be shown either.
    clean(&String::from_utf8_lossy(&bytes[..bytes.len().min(4 * SHOWN_MAX + 4)]))
}

/// What exactly a session was ended for. Everything in it may be shown: see [`clean`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Finding {
    /// The step that the session was in, such as `handshake` or `open`.
    pub step: &'static str,
    /// The number of the message's type, where a message is at fault.
    pub kind: Option<u8>,
    /// Its name, or `type N`.
    pub message: Option<String>,
    /// The field, such as `blocks[3].foliage.pool_signature`.
    pub field: Option<String>,
    /// The byte: of the message's body; of a frame's or request's beginning, counted from the first behind TLS.
    pub byte: Option<u64>,
    /// The rule: a limit's name as `check --why` has it, and where its value comes from.
    pub rule: Option<String>,
    /// The limit's value, in the unit that `what` names.
    pub limit: Option<u64>,
    /// All of it in words.
    pub what: String,
}

impl Finding {
    /// Only words.
    pub fn new(what: impl fmt::Display) -> Finding {
        Finding { what: what.to_string(), ..Finding::default() }
    }

    /// With the rule and the limit that was reached.
    #[must_use]
    pub fn limited(self, rule: impl Into<String>, limit: impl Into<u64>) -> Finding {
        Finding { rule: Some(rule.into()), limit: Some(limit.into()), ..self }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(message) = &self.message {
            write!(f, "{message}: ")?;
        }
        match (&self.field, self.byte) {
            (Some(field), Some(byte)) => write!(f, "{field}, byte {byte}: ")?,
            (Some(field), None) => write!(f, "{field}: ")?,
            (None, Some(byte)) => write!(f, "byte {byte}: ")?,
            (None, None) => {}
        }
        f.write_str(&self.what)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn nothing_that_moves_a_cursor_or_turns_text_is_shown() {
        assert_eq!(clean("2.7.5"), "2.7.5");
        assert_eq!(clean("\x1b[2J\x07\r\n\0"), r"\u{1b}[2J\u{7}\u{d}\u{a}\u{0}");
        assert_eq!(clean("a\u{202e}b\u{2066}\u{200f}\u{feff}"), r"a\u{202e}b\u{2066}\u{200f}\u{feff}");
        assert_eq!(clean("\u{9b}31m\u{7f}\u{85}\u{2028}"), r"\u{9b}31m\u{7f}\u{85}\u{2028}");
        // A Cyrillic letter that looks like a Latin one, and text that looks like an escape.
        assert_eq!(clean("m\u{430}innet \\u{1b}"), r"m\u{430}innet \\u{1b}");
        assert_eq!(clean(&"x".repeat(128)), "x".repeat(80) + "...");
        assert_eq!(clean(&"\u{1b}".repeat(128)), r"\u{1b}".repeat(13) + "...");
        assert_eq!(clean_bytes(b"GET /\xff\xfe"), r"GET /\u{fffd}\u{fffd}");
    }

    proptest! {
        #[test]
        fn what_is_shown_is_short_and_printable(text in any::<String>()) {
            let shown = clean(&text);
            prop_assert!(shown.len() <= SHOWN_MAX + 3);
            prop_assert!(shown.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
        }

        #[test]
        fn cut_bytes_show_as_whole_ones(bytes in proptest::collection::vec(any::<u8>(), 0..1_000)) {
            prop_assert_eq!(clean_bytes(&bytes), clean(&String::from_utf8_lossy(&bytes)));
        }
    }
}
