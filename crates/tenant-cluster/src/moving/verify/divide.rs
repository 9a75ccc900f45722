//! The rows that differ in a range that does: it is divided until few are left
//! in a part, and only the rows of such parts are read.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::future::try_join;
use insula_problem::Problem;
use tokio_postgres::Client;

use super::super::MovedTable;
use super::super::pieces::Range;
use super::ends::{End, Sum};
use super::{Difference, Differs};

/// So many rows of each end are read at a time.
const PAGE: u64 = 1_000;

/// Into how many parts a range is divided.
const PARTS: u64 = 16;

/// How many differences are listed at the most.
const LISTED: usize = 100;

/// The differences that were found.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// How many.
    pub(super) rows: u64,
    /// The first of them.
    pub(super) listed: BTreeSet<Difference>,
}

impl Found {
    pub(super) fn add(&mut self, difference: Difference) {
        self.rows += 1;
        self.list(difference);
    }

    pub(super) fn join(&mut self, other: Self) {
        self.rows += other.rows;
        other.listed.into_iter().for_each(|difference| self.list(difference));
    }

    fn list(&mut self, difference: Difference) {
        self.listed.insert(difference);
        if self.listed.len() > LISTED {
            self.listed.pop_last();
        }
    }

    /// Compares the rows of a part.
    fn compare(
        &mut self,
        table: &MovedTable,
        source: &BTreeMap<String, String>,
        target: &BTreeMap<String, String>,
    ) {
        let difference =
            |key: &String, what| Difference { table: table.name.clone(), key: key.clone(), what };
        for (key, hash) in source {
            match target.get(key) {
                None => self.add(difference(key, Differs::MissingAtTarget)),
                Some(other) if other != hash => self.add(difference(key, Differs::OtherValues)),
                Some(_) => {}
            }
        }
        let only_target = target.keys().filter(|key| !source.contains_key(*key));
        only_target.for_each(|key| self.add(difference(key, Differs::OnlyAtTarget)));
    }
}

/// An end and a connection to it.
pub(super) type At<'a> = (&'a End<'a>, &'a Client);

/// The sums of a range at the source and at the target.
pub(super) async fn sums(
    (source, at_source): At<'_>,
    (target, at_target): At<'_>,
    table: &MovedTable,
    range: &Range,
) -> Result<(Sum, Sum), Problem> {
    try_join(source.sum(at_source, table, range), target.sum(at_target, table, range)).await
}

/// All differences of a range that has these sums.
pub(super) async fn differences(
    source: At<'_>,
    target: At<'_>,
    table: &MovedTable,
    (range, here, there): (Range, Sum, Sum),
) -> Result<Found, Problem> {
    let mut found = Found::default();
    if table.key.is_empty() {
        let (table, key) = (table.name.clone(), String::new());
        found.add(Difference { table, key, what: Differs::OtherValues });
        return Ok(found);
    }
    let mut left = vec![(range, here, there)];
    while let Some((range, here, there)) = left.pop() {
        let rows = here.rows.max(there.rows);
        if rows <= PAGE {
            let rows = try_join(
                source.0.rows(source.1, table, &range, PAGE),
                target.0.rows(target.1, table, &range, PAGE),
            );
            let (here, there) = rows.await?;
            found.compare(table, &here, &there);
            continue;
        }
        // By the keys of the end that has more: in each part it has fewer.
        let (end, client) = if here.rows >= there.rows { source } else { target };
        let bounds = end.bounds(client, table, &range, (rows / PARTS + 1).max(PAGE)).await?;
        for number in 0..=bounds.len() {
            let part = range.part(&bounds, number);
            let (here, there) = sums(source, target, table, &part).await?;
            if here != there {
                left.push((part, here, there));
            }
        }
    }
    Ok(found)
}
