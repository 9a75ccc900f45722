//! The pieces that tables are copied and compared in: ranges of pages where a
//! table is one tenant's, ranges of the key where it is shared.

use insula_problem::Problem;
use tokio_postgres::{Client, SimpleQueryMessage};

use super::{MovedTable, Place, identifier};
use crate::{db, literal};

/// A part of a table: what to read from, and which rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Piece {
    /// The table's place in the list of tables.
    pub(super) table: usize,
    /// A name for SQL after `from`.
    pub(super) from: String,
    /// Conditions that are all to hold.
    pub(super) conditions: Vec<String>,
    /// How much it is, next to others.
    pub(super) weight: i64,
}

impl Piece {
    /// From `where` on; nothing where every row is meant.
    pub(super) fn filter(&self) -> String {
        if self.conditions.is_empty() {
            return String::new();
        }
        format!(" where {}", self.conditions.join(" and "))
    }
}

/// All pieces of a table for a copy, by the rows that one is to have, about.
///
/// # Errors
/// Where the cluster is away.
pub(super) async fn pieces(
    client: &Client,
    place: &Place,
    (number, table): (usize, &MovedTable),
    rows_per_range: i64,
) -> Result<Vec<Piece>, Problem> {
    let rows_per_range = rows_per_range.max(1);
    let from = table.source(&place.placement.schema);
    if place.is_pool_form() {
        let whole =
            |from: String, weight| Piece { table: number, from, conditions: place.conditions(), weight };
        if table.rows <= rows_per_range || table.key.is_empty() {
            return Ok(vec![whole(from, table.bytes)]);
        }
        let bounds = bounds(client, table, &format!("{from}{}", place.filter()), rows_per_range).await?;
        let weight = table.bytes / i64::try_from(bounds.len() + 1).unwrap_or(1);
        return Ok((0..=bounds.len())
            .map(|number| {
                let mut piece = whole(from.clone(), weight);
                piece.conditions.extend(Range::default().part(&bounds, number).conditions(&table.key));
                piece
            })
            .collect());
    }
    let pages = pages(client, place, table).await?;
    let pages_per_range = (pages.max(1) * rows_per_range / table.rows.max(1)).max(1);
    let piece = |conditions| Piece {
        table: number,
        from: from.clone(),
        conditions,
        weight: table.bytes * pages.min(pages_per_range) / pages.max(1),
    };
    Ok(page_ranges(pages, pages_per_range).into_iter().map(piece).collect())
}

/// Conditions that cut so many pages into ranges. The last has no end, so that
/// no row is lost that is on a page which has come since.
fn page_ranges(pages: i64, per_range: i64) -> Vec<Vec<String>> {
    let mut ranges = Vec::new();
    let mut first = 0;
    loop {
        let end = first + per_range;
        let is_last = end >= pages;
        let mut range = Vec::new();
        if first > 0 {
            range.push(format!("ctid >= '({first},0)'::tid"));
        }
        if !is_last {
            range.push(format!("ctid < '({end},0)'::tid"));
        }
        ranges.push(range);
        if is_last {
            return ranges;
        }
        first = end;
    }
}

/// A range of keys: of all where nothing is said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Range {
    /// Only keys behind this one.
    pub(super) after: Option<Vec<String>>,
    /// Only keys up to this one.
    pub(super) up_to: Option<Vec<String>>,
}

impl Range {
    /// One of the parts, by its number, that keys cut it into, which each end one.
    pub(super) fn part(&self, bounds: &[Vec<String>], number: usize) -> Self {
        let after = number.checked_sub(1).and_then(|before| bounds.get(before)).or(self.after.as_ref());
        let up_to = bounds.get(number).or(self.up_to.as_ref());
        Self { after: after.cloned(), up_to: up_to.cloned() }
    }

    /// The conditions that are true of its rows alone.
    pub(super) fn conditions(&self, key: &[String]) -> Vec<String> {
        let columns = key.iter().map(|name| identifier(name)).collect::<Vec<_>>().join(", ");
        let compared = |operator: &str, bound: &[String]| {
            let values = bound.iter().map(|value| literal(value)).collect::<Vec<_>>().join(", ");
            format!("({columns}) {operator} ({values})")
        };
        let after = self.after.iter().map(|bound| compared(">", bound));
        after.chain(self.up_to.iter().map(|bound| compared("<=", bound))).collect()
    }
}

/// The key of every so-many-th row, along the key's index; `from` is what stands
/// behind `from` in a query.
///
/// # Errors
/// Where the cluster is away.
pub(super) async fn bounds(
    client: &Client,
    table: &MovedTable,
    from: &str,
    rows_per_range: i64,
) -> Result<Vec<Vec<String>>, Problem> {
    let key: Vec<_> = table.key.iter().map(|name| identifier(name)).collect();
    let columns = key.join(", ");
    let texts = key.iter().map(|name| format!("{name}::text")).collect::<Vec<_>>().join(", ");
    let query = format!(
        "select {texts} from (
             select {columns}, row_number() over (order by {columns}) as \"insula row\" from {from}
         ) numbered where \"insula row\" % {rows_per_range} = 0 order by \"insula row\""
    );
    let messages = client.simple_query(&query).await.map_err(db)?;
    Ok(messages
        .iter()
        .filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => {
                Some((0..row.len()).map(|column| row.get(column).unwrap_or_default().to_owned()).collect())
            }
            _ => None,
        })
        .collect())
}

async fn pages(client: &Client, place: &Place, table: &MovedTable) -> Result<i64, Problem> {
    let query = "select pg_relation_size($1::text::regclass) / current_setting('block_size')::bigint";
    let name = table.qualified(&place.placement.schema);
    Ok(client.query_one(query, &[&name]).await.map_err(db)?.get(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_cut_without_a_gap_and_the_last_has_no_end() {
        assert_eq!(page_ranges(0, 10), [Vec::<String>::new()]);
        assert_eq!(page_ranges(10, 10), [Vec::<String>::new()]);
        assert_eq!(
            page_ranges(25, 10),
            [
                vec!["ctid < '(10,0)'::tid".to_owned()],
                vec!["ctid >= '(10,0)'::tid".to_owned(), "ctid < '(20,0)'::tid".to_owned()],
                vec!["ctid >= '(20,0)'::tid".to_owned()],
            ]
        );
    }

    #[test]
    fn keys_are_cut_at_values_that_are_quoted() {
        let key = vec!["a".to_owned(), "B\"".to_owned()];
        let bounds = vec![vec!["1".to_owned(), "it's".to_owned()]];
        let all = Range::default();
        let (first, last) = (all.part(&bounds, 0), all.part(&bounds, 1));
        assert_eq!(first.conditions(&key), [r#"("a", "B""") <= ('1', 'it''s')"#]);
        assert_eq!(last.conditions(&key), [r#"("a", "B""") > ('1', 'it''s')"#]);
        assert_eq!(all.part(&[], 0).conditions(&key), [""; 0]);
        // A part of a part stays within it.
        let more = vec![vec!["2".to_owned(), String::new()]];
        assert_eq!(
            (last.part(&more, 0), last.part(&more, 1)),
            (
                Range { after: Some(bounds[0].clone()), up_to: Some(more[0].clone()) },
                Range { after: Some(more[0].clone()), up_to: None },
            )
        );
    }
}
