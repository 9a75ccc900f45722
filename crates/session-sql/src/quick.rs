//! Finds plain statements that leave nothing behind, without reading them as
//! PostgreSQL does: by their first word, and by what their bytes do not contain,
//! which is the same in every way of reading.

use memchr::memchr;

/// First words of statements that leave nothing behind by themselves.
const HARMLESS: &[&str] = &[
    "select",
    "insert",
    "update",
    "delete",
    "begin",
    "commit",
    "rollback",
    "with",
    "values",
    "start",
    "end",
    "abort",
    "savepoint",
    "release",
    "fetch",
    "close",
    "show",
    "copy",
    "table",
    "merge",
];

/// The longest of them.
const WORD_BYTES_MAX: usize = 9;

/// Without one of these nothing but first words has an effect. Each with the
/// place of the byte in it by which it is looked for, a rare one.
const NEEDLES: &[(&str, usize)] = &[
    ("temp", 3),
    ("advisory_lock", 8),
    ("set_config", 3),
    ("setseed", 6),
    ("dblink_connect", 6),
    ("currval", 4),
    ("lastval", 4),
    ("query_to_xml", 5),
    ("ts_stat", 2),
    ("ts_rewrite", 2),
    ("xpath_table", 5),
    ("crosstab", 7),
    ("u&\"", 1),
];

/// `SELECT INTO`; every `INSERT` has it too.
const INTO: &str = "into";

/// For each byte the needles that are looked for by it, as bits.
const LOOKED_FOR: [u16; 256] = looked_for();

const fn looked_for() -> [u16; 256] {
    let mut table = [0; 256];
    let mut index = 0;
    while index < NEEDLES.len() {
        let (needle, place) = NEEDLES[index];
        let byte = needle.as_bytes()[place];
        table[byte as usize] |= 1 << index;
        table[byte.to_ascii_uppercase() as usize] = table[byte as usize];
        index += 1;
    }
    table
}

/// Whether the text is one plain statement that leaves nothing behind. False
/// says nothing.
pub(crate) fn leaves_nothing(text: &[u8]) -> bool {
    let text = text.trim_ascii();
    let text = text.strip_suffix(b";").unwrap_or(text);
    if text.is_empty() {
        return true;
    }
    let Some(head) = head(text) else { return false };
    memchr(b';', text).is_none()
        && !has_needle(text)
        && (matches!(head, "insert" | "merge") || !has_into(text))
}

/// The first word, if it is one of the harmless.
fn head(text: &[u8]) -> Option<&'static str> {
    let length = text.iter().take(WORD_BYTES_MAX + 1).take_while(|byte| byte.is_ascii_alphabetic()).count();
    // A word that goes on, or a string's or a comment's beginning.
    if text.get(length).is_some_and(|byte| !byte.is_ascii_whitespace() && *byte != b'(') {
        return None;
    }
    let word = &text[..length];
    HARMLESS.iter().copied().find(|head| word.eq_ignore_ascii_case(head.as_bytes()))
}

fn has_needle(text: &[u8]) -> bool {
    text.iter().enumerate().any(|(at, byte)| {
        let bits = LOOKED_FOR[usize::from(*byte)];
        bits != 0 && has_needle_at(text, at, bits)
    })
}

fn has_needle_at(text: &[u8], at: usize, mut bits: u16) -> bool {
    while bits != 0 {
        let (needle, place) = NEEDLES[bits.trailing_zeros() as usize];
        bits &= bits - 1;
        let found = at.checked_sub(place).and_then(|start| text.get(start..start + needle.len()));
        if found.is_some_and(|found| found.eq_ignore_ascii_case(needle.as_bytes())) {
            return true;
        }
    }
    false
}

fn has_into(text: &[u8]) -> bool {
    text.windows(INTO.len()).any(|found| found.eq_ignore_ascii_case(INTO.as_bytes()))
}
