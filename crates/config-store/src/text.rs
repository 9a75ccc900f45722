//! Ranges of keys: a prefix as the first key that it covers, and the first
//! behind those. Keys are ordered by their bytes, which is the order of their
//! characters' code points.

use insula_config_model::{ConfigKey, KEY_BYTES_MAX, KeyPrefix};

/// The keys from `low` on and before `high`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Range {
    pub low: String,
    pub high: String,
}

/// The keys that a prefix covers.
pub(crate) fn range(prefix: &KeyPrefix) -> Range {
    Range { low: prefix.to_string(), high: behind(prefix.as_str()) }
}

/// The keys that a prefix covers behind one of them.
pub(crate) fn range_after(prefix: &KeyPrefix, after: Option<&ConfigKey>) -> Range {
    let mut range = range(prefix);
    if let Some(after) = after {
        // No text is between a key and the same with a space behind it that is a key.
        let next = format!("{after} ");
        range.low = range.low.max(next);
    }
    range
}

/// The ranges of several prefixes, without those that another one covers.
pub(crate) fn ranges(prefixes: &[KeyPrefix]) -> Vec<Range> {
    let mut texts: Vec<&str> = prefixes.iter().map(KeyPrefix::as_str).collect();
    if texts.is_empty() {
        texts.push("");
    }
    texts.sort_unstable();
    texts.dedup_by(|later, earlier| later.starts_with(&**earlier));
    texts.into_iter().map(|text| Range { low: text.to_owned(), high: behind(text) }).collect()
}

/// The first text behind all that begin with this one.
fn behind(prefix: &str) -> String {
    let mut characters: Vec<char> = prefix.chars().collect();
    while let Some(last) = characters.pop() {
        // What lies between is no character: surrogates.
        let next = if last == '\u{d7ff}' { Some('\u{e000}') } else { char::from_u32(u32::from(last) + 1) };
        if let Some(next) = next {
            characters.push(next);
            return characters.into_iter().collect();
        }
    }
    // Longer than any key, of the last character that there is.
    "\u{10ffff}".repeat(KEY_BYTES_MAX / 4 + 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn prefix(text: &str) -> KeyPrefix {
        text.parse().unwrap()
    }

    #[test]
    fn prefixes_under_others_are_not_asked_for_twice() {
        let lows = |texts: &[&str]| -> Vec<String> {
            let prefixes: Vec<KeyPrefix> = texts.iter().map(|text| prefix(text)).collect();
            ranges(&prefixes).into_iter().map(|range| range.low).collect()
        };
        assert_eq!(lows(&[]), [""]);
        assert_eq!(lows(&["ab", "a", "b", "abc", "b"]), ["a", "b"]);
        assert_eq!(lows(&["a/b", "a/c", "a"]), ["a"]);
    }

    proptest! {
        #[test]
        fn a_range_is_what_the_prefix_covers(
            text in "[a\u{7f}\u{e9}\u{d7ff}\u{e000}\u{ffff}\u{10000}\u{10ffff}]{0,3}",
            key in "[a\u{7f}\u{e9}\u{d7ff}\u{e000}\u{ffff}\u{10000}\u{10ffff}]{1,5}",
            after in "[a\u{7f}\u{e9}\u{d7ff}\u{e000}\u{ffff}\u{10000}\u{10ffff}]{1,5}",
        ) {
            prop_assume!(text.parse::<KeyPrefix>().is_ok() && key.parse::<ConfigKey>().is_ok());
            prop_assume!(after.parse::<ConfigKey>().is_ok());
            let is_in = |range: Range| range.low.as_str() <= key.as_str() && key < range.high;
            prop_assert_eq!(is_in(range(&prefix(&text))), key.starts_with(&text));
            let behind = range_after(&prefix(&text), Some(&after.parse().unwrap()));
            prop_assert_eq!(is_in(behind), key.starts_with(&text) && key > after);
        }
    }
}
