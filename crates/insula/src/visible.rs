//! What others have written, such that it does not steer the terminal on which it
//! is shown: control characters, and those that nobody sees or that turn the
//! direction of what follows, are written out. Pure.

use std::borrow::Cow;
use std::fmt::Write;

/// The text with each such character as `\u{…}`.
pub fn visible(text: &str) -> Cow<'_, str> {
    replaced(text, steers, written_out)
}

/// The same of a text of several lines: their ends, and tabs, stay.
pub fn visible_lines(text: &str) -> Cow<'_, str> {
    replaced(text, steers_lines, written_out)
}

/// JSON with each such character as JSON writes it, `\u….`: it is the same JSON.
/// They stand within its strings alone.
pub fn visible_json(text: &str) -> Cow<'_, str> {
    replaced(text, steers_lines, |character, out| {
        for unit in character.encode_utf16(&mut [0; 2]) {
            // Writing into memory does not fail.
            let _ = write!(out, "\\u{unit:04x}");
        }
    })
}

fn written_out(character: char, out: &mut String) {
    out.extend(character.escape_unicode());
}

fn replaced(text: &str, is_hit: fn(char) -> bool, put: fn(char, &mut String)) -> Cow<'_, str> {
    if !text.contains(is_hit) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        if is_hit(character) { put(character, &mut out) } else { out.push(character) }
    }
    Cow::Owned(out)
}

fn steers_lines(character: char) -> bool {
    !matches!(character, '\n' | '\t') && steers(character)
}

/// Whether a character steers a terminal, or misleads whoever reads there: those
/// of control, of both halves; and of those that have no picture, the ones that
/// turn, join, part or hide what is around them.
fn steers(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{ad}'
                | '\u{34f}'
                | '\u{61c}'
                | '\u{115f}'..='\u{1160}'
                | '\u{17b4}'..='\u{17b5}'
                | '\u{180b}'..='\u{180f}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{3164}'
                | '\u{feff}'
                | '\u{ffa0}'
                | '\u{fff9}'..='\u{fffb}'
                | '\u{1bca0}'..='\u{1bca3}'
                | '\u{1d173}'..='\u{1d17a}'
                | '\u{e0000}'..='\u{e0fff}'
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_steers_a_terminal_is_written_out() {
        for (text, shown) in [
            ("\u{1b}]0;x\u{7}", "\\u{1b}]0;x\\u{7}"),
            ("\u{9b}2J\u{7f}", "\\u{9b}2J\\u{7f}"),
            ("a\u{202e}b\u{200b}c\u{2066}", "a\\u{202e}b\\u{200b}c\\u{2066}"),
            ("a\r\n\tb", "a\\u{d}\\u{a}\\u{9}b"),
            ("\u{e0041}", "\\u{e0041}"),
            ("größe 日本語 🦀 עברית \\u{1b}", "größe 日本語 🦀 עברית \\u{1b}"),
        ] {
            assert_eq!(visible(text), shown);
        }
        assert_eq!(visible_lines("a\n\tb\r\u{1b}"), "a\n\tb\\u{d}\\u{1b}");
        assert!(matches!(visible("plain"), Cow::Borrowed(_)), "nothing is copied");
    }

    #[test]
    fn json_stays_the_same_json() {
        let document = serde_json::json!({"a\u{202e}": "\u{9b}2J\u{7f} \u{1b}\n \u{e0041} 🦀"});
        let pretty = serde_json::to_string_pretty(&document).unwrap();
        assert!(pretty.contains('\u{9b}'), "canary: serde writes it as it is");
        let shown = visible_json(&pretty);
        assert!(!shown.contains(steers_lines), "{shown}");
        assert!(shown.contains("\\udb40\\udc41") && shown.contains("\\u009b2J\\u007f"), "{shown}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).unwrap(), document);
    }
}
