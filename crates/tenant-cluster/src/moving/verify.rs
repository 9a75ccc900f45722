//! Whether two placements have the same rows: checksums by ranges of keys at
//! both ends at once, and row by row where one differs. The checksum of the
//! whole depends on neither the ranges nor the form of the tables.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use futures_util::future::{try_join, try_join_all};
use insula_problem::Problem;
use tokio_postgres::{Client, SimpleQueryMessage};
use tokio_util::sync::CancellationToken;

use super::pieces::{bounds, key_ranges};
use super::progress::{CopyProgress, until_stopped};
use super::{MovedTable, Place, identifier};
use crate::access::Connection;
use crate::{db, literal};

/// Rows of a range.
const RANGE: i64 = 20_000;

/// How many ranges are compared at once.
const PARALLEL: usize = 2;

/// How many differences are listed at the most.
const LISTED: usize = 100;

/// In what a row differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Differs {
    /// The target does not have it.
    OnlySource,
    /// The source does not have it.
    OnlyTarget,
    /// Both have it, with other values.
    Different,
}

/// A row that is not the same at both ends.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Difference {
    /// The table.
    pub table: String,
    /// The row's key, as `column=value, …`; of a table without one, nothing.
    pub key: String,
    /// What is different.
    pub what: Differs,
}

/// What a comparison has found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// Rows of the source.
    pub rows: u64,
    /// The checksum of the source's rows, as 32 hexadecimal digits.
    pub checksum: String,
    /// The first 100 differences that were found.
    pub differences: Vec<Difference>,
}

/// Rows with their checksum, which is a sum: that of two parts is the sum of
/// theirs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Sum {
    rows: u64,
    sum: i128,
}

impl Sum {
    fn add(&mut self, other: Self) {
        self.rows += other.rows;
        self.sum = self.sum.wrapping_add(other.sum);
    }
}

/// One end, seen as of one moment by all its connections.
struct End<'a> {
    place: &'a Place,
    snapshot: String,
    /// Keeps the snapshot, where it was made here.
    _keeper: Connection,
}

/// Compares the tenant's rows in two placements, each as of a snapshot: the one
/// that is named, or one of now. The tables are those of the source.
///
/// # Errors
/// Where a cluster is away, a snapshot is gone, a table is not at both ends, or
/// it is to stop.
pub async fn verify(
    source: (&Place, Option<&str>),
    target: (&Place, Option<&str>),
    tables: &[MovedTable],
    progress: &CopyProgress,
    stop: &CancellationToken,
) -> Result<Verified, Problem> {
    let compared = async {
        let (source, target) = try_join(End::new(source), End::new(target)).await?;
        compare(&source, &target, tables, progress).await
    };
    until_stopped(stop, compared).await
}

impl<'a> End<'a> {
    async fn new((place, snapshot): (&'a Place, Option<&str>)) -> Result<Self, Problem> {
        let keeper = place.connect().await?;
        let begin = "begin isolation level repeatable read read only";
        keeper.batch_execute(begin).await.map_err(db)?;
        let snapshot = match snapshot {
            Some(snapshot) => snapshot.to_owned(),
            None => keeper.query_one("select pg_export_snapshot()", &[]).await.map_err(db)?.get(0),
        };
        Ok(Self { place, snapshot, _keeper: keeper })
    }

    async fn reader(&self) -> Result<Connection, Problem> {
        let client = self.place.connect().await?;
        let begin = format!(
            "begin isolation level repeatable read read only; set transaction snapshot {}",
            literal(&self.snapshot)
        );
        client.batch_execute(&begin).await.map_err(db)?;
        Ok(client)
    }

    /// What to read a range of a table from.
    fn from(&self, table: &MovedTable, range: &[String]) -> String {
        let conditions = [self.place.conditions(), range.to_vec()].concat();
        let filter = if conditions.is_empty() {
            String::new()
        } else {
            format!(" where {}", conditions.join(" and "))
        };
        format!("{}{filter}", table.source(&self.place.placement.schema))
    }

    async fn sum(&self, client: &Client, table: &MovedTable, range: &[String]) -> Result<Sum, Problem> {
        let query =
            format!("select count(*), coalesce(sum({}), 0) from {}", hash(table), self.from(table, range));
        let row = texts(client, &query).await?.into_iter().next().unwrap_or_default();
        let [rows, sum] = row.as_slice() else { return Err(Problem::internal("a checksum has no answer")) };
        Ok(Sum {
            rows: rows.parse().map_err(|error: std::num::ParseIntError| Problem::internal(error))?,
            sum: sum.parse().map_err(|error: std::num::ParseIntError| Problem::internal(error))?,
        })
    }

    /// Each row of a range: its key and its checksum.
    async fn rows(
        &self,
        client: &Client,
        table: &MovedTable,
        range: &[String],
    ) -> Result<BTreeMap<String, String>, Problem> {
        let named = |name: &String| format!("{} || {}::text", literal(&format!("{name}=")), identifier(name));
        let key = table.key.iter().map(named).collect::<Vec<_>>().join(", ");
        let query =
            format!("select concat_ws(', ', {key}), {} from {}", hash(table), self.from(table, range));
        let rows = texts(client, &query).await?;
        Ok(rows
            .into_iter()
            .filter_map(|row| <[String; 2]>::try_from(row).ok())
            .map(|[key, hash]| (key, hash))
            .collect())
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

async fn compare(
    source: &End<'_>,
    target: &End<'_>,
    tables: &[MovedTable],
    progress: &CopyProgress,
) -> Result<Verified, Problem> {
    let client = source.reader().await?;
    let mut ranges = VecDeque::new();
    let mut left = vec![0_usize; tables.len()];
    for (number, table) in tables.iter().enumerate() {
        let cut = if table.key.is_empty() || table.rows <= RANGE {
            Vec::new()
        } else {
            bounds(&client, source.place, table, RANGE).await?
        };
        let of_table = key_ranges(&table.key, &cut);
        left[number] = of_table.len();
        ranges.extend(of_table.into_iter().map(|range| (number, range)));
    }
    drop(client);
    let state = Mutex::new((ranges, left, Sum::default(), Vec::new()));
    let lock = || state.lock().unwrap_or_else(PoisonError::into_inner);
    let worker = || async {
        let (at_source, at_target) = try_join(source.reader(), target.reader()).await?;
        loop {
            let Some((number, range)) = lock().0.pop_front() else { return Ok::<_, Problem>(()) };
            let table = &tables[number];
            let (here, there) =
                try_join(source.sum(&at_source, table, &range), target.sum(&at_target, table, &range))
                    .await?;
            let found = if here == there {
                Vec::new()
            } else if table.key.is_empty() {
                let (table, key) = (table.name.clone(), String::new());
                vec![Difference { table, key, what: Differs::Different }]
            } else {
                let rows =
                    try_join(source.rows(&at_source, table, &range), target.rows(&at_target, table, &range));
                let (here, there) = rows.await?;
                differences(table, &here, &there)
            };
            progress.add_rows(here.rows);
            let mut state = lock();
            state.2.add(here);
            let room = LISTED - state.3.len();
            state.3.extend(found.into_iter().take(room));
            state.1[number] -= 1;
            if state.1[number] == 0 {
                progress.add_table();
            }
            if state.3.len() == LISTED {
                state.0.clear();
            }
        }
    };
    try_join_all((0..PARALLEL).map(|_| worker())).await?;
    let (_, _, sum, mut differences) = state.into_inner().unwrap_or_else(PoisonError::into_inner);
    differences.sort();
    Ok(Verified { rows: sum.rows, checksum: format!("{:032x}", sum.sum), differences })
}

/// How the rows of a range differ.
fn differences(
    table: &MovedTable,
    source: &BTreeMap<String, String>,
    target: &BTreeMap<String, String>,
) -> Vec<Difference> {
    let difference = |key: &String, what| Difference { table: table.name.clone(), key: key.clone(), what };
    let mut found = Vec::new();
    for (key, hash) in source {
        match target.get(key) {
            None => found.push(difference(key, Differs::OnlySource)),
            Some(other) if other != hash => found.push(difference(key, Differs::Different)),
            Some(_) => {}
        }
    }
    let only_target = target.keys().filter(|key| !source.contains_key(*key));
    found.extend(only_target.map(|key| difference(key, Differs::OnlyTarget)));
    found
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
