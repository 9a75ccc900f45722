//! How busy a server is that a move reads from, and how much of its time a copy
//! rests for that. What others feel is felt by a small read of our own: it waits for
//! a processor and for the disk as theirs do.

use std::time::Duration;

use insula_problem::Problem;
use tokio::time::{Instant, timeout};
use tokio_postgres::SimpleQueryMessage;

use super::{MovedTable, Place};
use crate::access::Connection;
use crate::{db, literal};

/// How long a look may take: behind that a server is busy, or gone, which others
/// find out.
const LOOKED_WITHIN: Duration = Duration::from_secs(1);

/// A read that takes less than this is not slow, whatever the fastest one took.
const SLOW_FROM: Duration = Duration::from_millis(20);

/// How many times as long as the fastest one a slow read takes.
const SLOW_TIMES: u32 = 4;

/// A copy works for no less than so much of its time.
const PART_MIN: u32 = 8;

/// A step from one page to the next that is looked at, so that it is seldom one
/// that was read a moment ago.
const STRIDE: i64 = 7_919;

/// What a look at a server has found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look {
    /// How long the read took.
    pub took: Duration,
    /// How many sessions of others were at work.
    pub others: u64,
}

/// Looks at a server now and then.
#[derive(Debug)]
pub struct Looks {
    place: Place,
    /// The name of the table that is read from, for SQL, and its pages.
    table: Option<(String, i64)>,
    page: i64,
    client: Option<Connection>,
}

impl Looks {
    /// At a server, by pages of the largest of some tables.
    #[must_use]
    pub fn new(place: &Place, tables: &[MovedTable]) -> Self {
        let largest = tables.iter().max_by_key(|table| table.bytes);
        let table = largest.map(|table| (table.source(&place.placement.schema), table.bytes / 8_192 + 1));
        Self { place: place.clone(), table, page: 0, client: None }
    }

    /// Looks once.
    ///
    /// # Errors
    /// Where the cluster is away.
    pub async fn look(&mut self) -> Result<Look, Problem> {
        let client = match self.client.take() {
            Some(client) => client,
            None => self.place.connect().await?,
        };
        let read = self.table.as_ref().map_or_else(String::new, |(table, pages)| {
            self.page = (self.page + STRIDE) % pages;
            format!(
                ", (select count(*) from {table} where ctid = {}::tid)",
                literal(&format!("({},1)", self.page))
            )
        });
        let query = format!(
            "select (select count(*) from pg_stat_activity
                     where state = 'active' and backend_type = 'client backend'
                       and usename is distinct from current_user){read}"
        );
        let began = Instant::now();
        let answer = timeout(LOOKED_WITHIN, client.simple_query(&query)).await;
        let took = began.elapsed();
        // What holds it up may be a lock, which somebody has.
        let Ok(answer) = answer else { return Ok(Look { took, others: 1 }) };
        let answer = answer.map_err(db)?;
        self.client = Some(client);
        let others = answer.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(0)?.parse().ok(),
            _ => None,
        });
        Ok(Look { took, others: others.unwrap_or(0) })
    }
}

/// For how much of its time a copy works. Pure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pace {
    fastest: Duration,
    /// It works for the so-many-th part.
    part: u32,
}

impl Default for Pace {
    fn default() -> Self {
        Self { fastest: Duration::MAX, part: 1 }
    }
}

impl Pace {
    /// Takes a look in: half as much work where the server is slow while others are
    /// at work on it, twice as much where not, and never less than an eighth.
    pub fn take(&mut self, look: Look) {
        self.fastest = self.fastest.min(look.took);
        let is_slow = look.took >= SLOW_FROM && look.took >= self.fastest.saturating_mul(SLOW_TIMES);
        self.part =
            if is_slow && look.others > 0 { (self.part * 2).min(PART_MIN) } else { (self.part / 2).max(1) };
    }

    /// How long it rests of each such time.
    #[must_use]
    pub fn rest(&self, of: Duration) -> Duration {
        of - of / self.part
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(milliseconds: u64, others: u64) -> Look {
        Look { took: Duration::from_millis(milliseconds), others }
    }

    #[test]
    fn a_copy_slows_down_while_others_feel_it_and_never_stops() {
        let second = Duration::from_secs(1);
        let mut pace = Pace::default();
        assert_eq!(pace.rest(second), Duration::ZERO);
        for (of, milliseconds, others, rests) in [
            ("the first one", 2, 3, 0),
            ("a little slower", 19, 3, 0),
            ("slow, with nobody there", 400, 0, 0),
            ("slow", 20, 3, 500),
            ("slow still", 300, 1, 750),
            ("slow still", 300, 1, 875),
            ("no slower than this", 999, 9, 875),
            ("better", 5, 9, 750),
            ("nobody is there", 300, 0, 500),
            ("good", 3, 9, 0),
            ("good", 3, 9, 0),
        ] {
            pace.take(look(milliseconds, others));
            assert_eq!(pace.rest(second), Duration::from_millis(rests), "{of}");
        }
        // A server that is always like this is not slow.
        let mut pace = Pace::default();
        for _ in 0..9 {
            pace.take(look(50, 9));
        }
        assert_eq!(pace.rest(second), Duration::ZERO);
    }
}
