//! Whether two placements have the same rows: checksums by ranges of keys at
//! both ends at once, and row by row where one differs, in parts of bounded size.
//! The checksum of the whole depends on neither the ranges nor the form of the
//! tables.
//!
//! What is claimed is that of both snapshots all rows are the same. A comparison
//! that goes on for a worker that died claims no less: what was found equal before
//! is taken over only where both ends still have, in the new snapshots, the very rows
//! of then, which is read from the numbers of the transactions that rows carry and
//! from how many there are, without reading the rows; what was changed since is
//! compared anew. Of what is written behind the snapshots nothing is claimed here:
//! the applier finds each row that it changes, or stops.

mod divide;
mod ends;
mod record;

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use futures_util::future::{try_join, try_join_all};
use insula_problem::Problem;
use serde::Serialize;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::pieces::Range;
use super::progress::{until_stopped, until_unpaused};
use super::{MovedTable, Place};
use divide::{Found, differences, sums};
use ends::{End, Sum};
use record::{Equal, digest};

pub use record::{Compared, Comparison};

/// From so many rows on it is not known how many there are, and a table is cut.
const CUT_FROM: i64 = 10_000;

/// How a comparison is made.
#[derive(Debug, Clone)]
pub struct CompareOptions {
    /// How many ranges are compared at once; each has a connection at both ends.
    pub parallel: usize,
    /// How many rows a range has.
    pub rows_per_range: u64,
    /// No range is begun while it says so.
    pub pause: Option<watch::Receiver<bool>>,
}

impl Default for CompareOptions {
    fn default() -> Self {
        Self { parallel: 2, rows_per_range: 20_000, pause: None }
    }
}

/// In what a row differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Differs {
    /// The target does not have it.
    MissingAtTarget,
    /// The source does not have it.
    OnlyAtTarget,
    /// Both have it, with other values.
    OtherValues,
}

impl fmt::Display for Differs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::MissingAtTarget => "missing at the target",
            Self::OnlyAtTarget => "only at the target",
            Self::OtherValues => "with other values",
        })
    }
}

/// A row that is not the same at both ends.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Difference {
    /// The table.
    pub table: String,
    /// The row's key, as `column=value, …`, with digests in the place of values that
    /// may be a person's; of a table without one, nothing.
    pub key: String,
    /// What is different.
    pub what: Differs,
}

/// What a comparison has found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// Rows of the source.
    pub rows: u64,
    /// Those of them that an earlier comparison has found equal, and that are what
    /// they were then.
    pub rows_before: u64,
    /// The checksum of the source's rows, as 32 hexadecimal digits.
    pub checksum: String,
    /// How many rows differ.
    pub rows_differing: u64,
    /// The first 100 of them, by table and key.
    pub differences: Vec<Difference>,
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
    how: CompareOptions,
    comparison: &Comparison,
    stop: &CancellationToken,
) -> Result<Verified, Problem> {
    let compared = async {
        let (source, target) = try_join(End::new(source), End::new(target)).await?;
        let since = [source.since, target.since];
        let state = Mutex::default();
        let mut work = Work { source, target, since, tables, cuts: Vec::new(), how, comparison, state };
        work.cut().await?;
        let workers = (0..work.how.parallel.max(1)).map(|_| work.worker());
        try_join_all(workers).await?;
        Ok(work.found())
    };
    until_stopped(stop, compared).await
}

/// What the workers of one comparison share.
struct Work<'a> {
    source: End<'a>,
    target: End<'a>,
    since: [u64; 2],
    tables: &'a [MovedTable],
    /// The keys at which each table is cut into ranges.
    cuts: Vec<Vec<Vec<String>>>,
    how: CompareOptions,
    comparison: &'a Comparison,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Tables and ranges of them, by their numbers, that are to be compared.
    queue: VecDeque<(usize, usize)>,
    tables: Vec<OfTable>,
    all: Sum,
    rows_before: u64,
    found: Found,
}

#[derive(Default)]
struct OfTable {
    /// Ranges that are to be compared.
    left: usize,
    /// So many from the first on are equal, with this sum in all.
    next: usize,
    equal: Sum,
    /// Others that are.
    ahead: BTreeMap<usize, Sum>,
}

impl Work<'_> {
    /// Cuts the tables into ranges, and takes over what is known of the first ones.
    async fn cut(&mut self) -> Result<(), Problem> {
        let (at_source, at_target) = try_join(self.source.reader(), self.target.reader()).await?;
        for (number, table) in self.tables.iter().enumerate() {
            let cut = if table.key.is_empty() || table.rows < CUT_FROM {
                Vec::new()
            } else {
                self.source
                    .bounds(&at_source, table, &Range::default(), self.how.rows_per_range.max(1))
                    .await?
            };
            let mut of = OfTable::default();
            if let Some((next, equal)) = self.known(&at_source, &at_target, table, &cut).await? {
                (of.next, of.equal) = (next, equal);
            }
            self.comparison.note(&table.name, self.equal(&of, &cut));
            self.comparison.progress().add_rows(of.equal.rows);
            of.left = cut.len() + 1 - of.next;
            if of.left == 0 {
                self.comparison.progress().add_table();
            }
            let mut state = self.state();
            state.queue.extend((of.next..=cut.len()).map(|range| (number, range)));
            state.all.add(of.equal);
            state.rows_before += of.equal.rows;
            state.tables.push(of);
            drop(state);
            self.cuts.push(cut);
        }
        Ok(())
    }

    /// How many ranges from the first on were found equal before, and are what they
    /// were then at both ends.
    async fn known(
        &self,
        at_source: &tokio_postgres::Client,
        at_target: &tokio_postgres::Client,
        table: &MovedTable,
        cut: &[Vec<String>],
    ) -> Result<Option<(usize, Sum)>, Problem> {
        let Some(before) = self.comparison.of(&table.name) else { return Ok(None) };
        let (next, range) = match &before.up_to {
            None => (cut.len() + 1, Range::default()),
            Some(key) => match cut.iter().position(|bound| digest(bound) == *key) {
                Some(number) => (number + 1, Range { after: None, up_to: cut.get(number).cloned() }),
                None => return Ok(None),
            },
        };
        let [source, target] = before.since;
        let (here, there) = try_join(
            self.source.is_as_it_was(at_source, table, &range, (before.rows, source)),
            self.target.is_as_it_was(at_target, table, &range, (before.rows, target)),
        )
        .await?;
        Ok(before.sum().filter(|_| here && there).map(|sum| (next, sum)))
    }

    /// What is to be recorded of a table.
    fn equal(&self, of: &OfTable, cut: &[Vec<String>]) -> Option<Equal> {
        let last = of.next.checked_sub(1)?;
        Some(Equal::new(of.equal, cut.get(last).map(Vec::as_slice), self.since))
    }

    /// Compares ranges until there is none left.
    async fn worker(&self) -> Result<(), Problem> {
        let (at_source, at_target) = try_join(self.source.reader(), self.target.reader()).await?;
        let (source, target) = ((&self.source, &*at_source), (&self.target, &*at_target));
        loop {
            until_unpaused(self.how.pause.as_ref()).await;
            let next = self.state().queue.pop_front();
            let Some((number, range)) = next else { return Ok(()) };
            let table = &self.tables[number];
            let part = Range::default().part(&self.cuts[number], range);
            let (here, there) = sums(source, target, table, &part).await?;
            let found = match here == there {
                true => Found::default(),
                false => differences(source, target, table, (part, here, there)).await?,
            };
            self.done((number, range), here, found);
        }
    }

    fn done(&self, (number, range): (usize, usize), here: Sum, found: Found) {
        let progress = self.comparison.progress();
        progress.add_rows(here.rows);
        let mut state = self.state();
        state.all.add(here);
        let of = &mut state.tables[number];
        of.left -= 1;
        if of.left == 0 {
            progress.add_table();
        }
        if found.rows == 0 {
            of.ahead.insert(range, here);
            // Not the last of several: where rows come at the end of a table, the others are
            // still what they were.
            let last = self.cuts[number].len().max(1);
            while of.next < last
                && let Some(sum) = of.ahead.remove(&of.next)
            {
                of.next += 1;
                of.equal.add(sum);
            }
            self.comparison.note(&self.tables[number].name, self.equal(of, &self.cuts[number]));
        }
        state.found.join(found);
    }

    fn found(self) -> Verified {
        let state = self.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        Verified {
            rows: state.all.rows,
            rows_before: state.rows_before,
            checksum: state.all.digits(),
            rows_differing: state.found.rows,
            differences: state.found.listed.into_iter().collect(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
