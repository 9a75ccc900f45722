//! One end of a comparison, seen as of one moment by all its connections, and
//! what is asked of it: sums of ranges, rows of small ones, and whether a range is
//! as it was.

use std::collections::BTreeMap;

use insula_problem::Problem;
use tokio_postgres::{Client, SimpleQueryMessage};

use super::super::pieces::{Range, bounds};
use super::super::told_key::expression;
use super::super::{MovedTable, Place};
use crate::access::Connection;
use crate::{db, literal};

/// Rows with their checksum, which is a sum: that of two parts is the sum of
/// theirs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Sum {
    pub(super) rows: u64,
    pub(super) sum: i128,
}

impl Sum {
    pub(super) fn add(&mut self, other: Self) {
        self.rows += other.rows;
        self.sum = self.sum.wrapping_add(other.sum);
    }

    /// As 32 hexadecimal digits.
    pub(super) fn digits(self) -> String {
        format!("{:032x}", self.sum)
    }
}

/// One end, seen as of one moment by all its connections.
pub(super) struct End<'a> {
    place: &'a Place,
    snapshot: String,
    /// The oldest transaction that the snapshot may not show, as it is counted
    /// over all time.
    pub(super) since: u64,
    /// Keeps the snapshot, where it was made here.
    _keeper: Connection,
}

impl<'a> End<'a> {
    pub(super) async fn new((place, snapshot): (&'a Place, Option<&str>)) -> Result<Self, Problem> {
        let keeper = place.connect().await?;
        let begin = "begin isolation level repeatable read read only";
        keeper.batch_execute(begin).await.map_err(db)?;
        let snapshot = match snapshot {
            Some(snapshot) => {
                let import = format!("set transaction snapshot {}", literal(snapshot));
                keeper.batch_execute(&import).await.map_err(db)?;
                snapshot.to_owned()
            }
            None => keeper.query_one("select pg_export_snapshot()", &[]).await.map_err(db)?.get(0),
        };
        let since = "select pg_snapshot_xmin(pg_current_snapshot())::text";
        let since: String = keeper.query_one(since, &[]).await.map_err(db)?.get(0);
        Ok(Self { place, snapshot, since: since.parse().map_err(Problem::internal)?, _keeper: keeper })
    }

    pub(super) async fn reader(&self) -> Result<Connection, Problem> {
        let client = self.place.connect().await?;
        let begin = format!(
            "begin isolation level repeatable read read only; set transaction snapshot {}",
            literal(&self.snapshot)
        );
        client.batch_execute(&begin).await.map_err(db)?;
        Ok(client)
    }

    /// What to read a range of a table from.
    fn from(&self, table: &MovedTable, range: &Range) -> String {
        let conditions = [self.place.conditions(), range.conditions(&table.key)].concat();
        let filter = if conditions.is_empty() {
            String::new()
        } else {
            format!(" where {}", conditions.join(" and "))
        };
        format!("{}{filter}", table.source(&self.place.placement.schema))
    }

    pub(super) async fn sum(
        &self,
        client: &Client,
        table: &MovedTable,
        range: &Range,
    ) -> Result<Sum, Problem> {
        let query =
            format!("select count(*), coalesce(sum({}), 0) from {}", hash(table), self.from(table, range));
        let [rows, sum] = one(client, &query).await?;
        Ok(Sum {
            rows: rows.parse().map_err(Problem::internal)?,
            sum: sum.parse().map_err(Problem::internal)?,
        })
    }

    /// The key of every so-many-th row of a range.
    pub(super) async fn bounds(
        &self,
        client: &Client,
        table: &MovedTable,
        range: &Range,
        each: u64,
    ) -> Result<Vec<Vec<String>>, Problem> {
        let each = i64::try_from(each).unwrap_or(i64::MAX);
        bounds(client, table, &self.from(table, range), each).await
    }

    /// Each row of a range that has no more than so many: its key, as it may be
    /// told, and its checksum.
    pub(super) async fn rows(
        &self,
        client: &Client,
        table: &MovedTable,
        range: &Range,
        at_most: u64,
    ) -> Result<BTreeMap<String, String>, Problem> {
        let key = table.key_columns().map(expression).collect::<Vec<_>>().join(", ");
        let query = format!(
            "select concat_ws(', ', {key}), {} from {} limit {}",
            hash(table),
            self.from(table, range),
            at_most + 1
        );
        let rows = texts(client, &query).await?;
        if u64::try_from(rows.len()).is_ok_and(|rows| rows > at_most) {
            return Err(Problem::internal("a range has more rows than a snapshot has shown in it"));
        }
        Ok(rows
            .into_iter()
            .filter_map(|row| <[String; 2]>::try_from(row).ok())
            .map(|[key, hash]| (key, hash))
            .collect())
    }

    /// Whether a range is as it was when it had so many rows, at a moment before
    /// which all older transactions than `since` had ended: no row in it is of a later
    /// one, and none is missing. Rows carry the number of their transaction in 32 bits,
    /// of which half lie ahead.
    pub(super) async fn is_as_it_was(
        &self,
        client: &Client,
        table: &MovedTable,
        range: &Range,
        (rows, since): (u64, u64),
    ) -> Result<bool, Problem> {
        let since = since & u64::from(u32::MAX);
        let query = format!(
            "select count(*), coalesce(bool_or(number >= 3 and (number - {since} + 4294967296) % 4294967296
                                               < 2147483648), false)
             from (select xmin::text::bigint as number from {}) rows",
            self.from(table, range)
        );
        let [now, is_later] = one(client, &query).await?;
        Ok(now.parse::<u64>().map_err(Problem::internal)? == rows && is_later == "f")
    }
}

/// The checksum of a row: of its values as text, so that what is written
/// differently is different, in a way of the table's own. It does not depend on
/// the database's collation.
fn hash(table: &MovedTable) -> String {
    format!(
        "hashtextextended(row({})::text collate \"C\", hashtextextended({} collate \"C\", 0))",
        table.column_list(),
        literal(&table.name)
    )
}

/// The two texts of the only row of an answer.
async fn one(client: &Client, query: &str) -> Result<[String; 2], Problem> {
    let row = texts(client, query).await?.into_iter().next().unwrap_or_default();
    row.try_into().map_err(|_| Problem::internal("a question about a range has no answer"))
}

/// The rows of an answer as texts.
async fn texts(client: &Client, query: &str) -> Result<Vec<Vec<String>>, Problem> {
    let messages = client.simple_query(query).await.map_err(db)?;
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
