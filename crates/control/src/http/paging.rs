//! Cursors: the place after the last item of a page, opaque to the caller.

use insula_problem::{Code, Problem};
use serde::Deserialize;
use utoipa::IntoParams;

/// The most items that a page has.
const MOST: u32 = 1_000;

/// Which page of a list.
#[derive(Debug, Clone, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct PageQuery {
    /// How many items at the most: 100 where it is not given, 1,000 at the most.
    pub limit: Option<u32>,
    /// Where the page begins: `next_cursor` of the page before.
    pub cursor: Option<String>,
}

impl PageQuery {
    /// How many items this page has at the most.
    pub fn limit(&self) -> usize {
        self.limit.unwrap_or(100).clamp(1, MOST) as usize
    }

    /// The key after which the page begins.
    ///
    /// # Errors
    /// `invalid_cursor` for what no page gave.
    pub fn after(&self) -> Result<Option<String>, Problem> {
        self.cursor.as_deref().map(decode).transpose()
    }

    /// The number after which the page begins.
    ///
    /// # Errors
    /// `invalid_cursor` for what no page gave.
    pub fn number(&self) -> Result<Option<i64>, Problem> {
        let number = |text: String| text.parse().map_err(|_| invalid());
        self.after()?.map(number).transpose()
    }
}

/// The page of the items, of which one more than `limit` was asked for: that
/// one tells that there is a next page.
pub fn page<T, U>(
    mut items: Vec<T>,
    limit: usize,
    key: impl Fn(&T) -> String,
    show: impl Fn(T) -> U,
) -> insula_api::Page<U> {
    let more = items.len() > limit;
    items.truncate(limit);
    let next_cursor = items.last().filter(|_| more).map(|last| encode(&key(last)));
    insula_api::Page { items: items.into_iter().map(show).collect(), next_cursor }
}

fn encode(key: &str) -> String {
    key.bytes().map(|byte| format!("{byte:02x}")).collect()
}

fn invalid() -> Problem {
    Problem::new(Code::InvalidCursor, "The cursor is not one that a page gave.")
}

fn decode(cursor: &str) -> Result<String, Problem> {
    if cursor.len() > 512 || !cursor.len().is_multiple_of(2) || !cursor.is_ascii() {
        return Err(invalid());
    }
    let bytes = (0..cursor.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&cursor[at..at + 2], 16))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| invalid())?;
    String::from_utf8(bytes).map_err(|_| invalid())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_come_back_and_rubbish_is_refused() {
        assert_eq!(decode(&encode("acme-7")).unwrap(), "acme-7");
        for rubbish in ["x", "zz", "é0", "ff", &"00".repeat(300)] {
            assert_eq!(decode(rubbish).unwrap_err().code(), Code::InvalidCursor, "{rubbish}");
        }
    }

    #[test]
    fn a_page_knows_whether_another_follows() {
        let full = page(vec![1, 2, 3], 2, |item| item.to_string(), |item| item);
        assert_eq!((full.items, full.next_cursor), (vec![1, 2], Some(encode("2"))));
        let last = page(vec![1, 2], 2, |item| item.to_string(), |item| item);
        assert_eq!(last.next_cursor, None);
    }
}
