//! One teller: a session that works as fast as it is answered, in all the ways
//! in which drivers ask.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_postgres::{Client, Error, NoTls, SimpleQueryMessage, Statement};

use super::{Gap, Hours, OPENING, lock};

/// The longest that a transaction may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Between two tries to come in.
const PAUSE: Duration = Duration::from_millis(20);

/// Errors that a teller keeps: the first say what is wrong.
const ERRORS_MAX: usize = 20;

const ENTRY: &str = "insert into journal (client, number, debit, credit, amount) values ($1, $2, $3, $4, $5) \
                     returning id";

/// What a teller tells.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Told {
    /// Its number, which no other has.
    pub client: i64,
    /// The numbers of its transactions that it began to write.
    pub tried: BTreeSet<i64>,
    /// Those that it was told are committed, with the journal's id of each.
    pub acknowledged: BTreeMap<i64, i64>,
    /// Those whose entry it removed again, and was told so.
    pub removed: BTreeSet<i64>,
    /// Every id that the journal's sequence gave to it, in whatever transaction.
    pub ids: Vec<i64>,
    /// What went wrong, in words.
    pub errors: Vec<String>,
    /// The time from the end of each statement to the end of the next.
    pub gaps: Vec<Gap>,
}

impl Told {
    /// The number of the transaction that comes next.
    pub(super) fn next(&self) -> i64 {
        self.tried.last().map_or(0, |last| last + 1)
    }

    /// How many transactions from this number on are done.
    pub(super) fn done_since(&self, number: i64) -> usize {
        self.acknowledged.range(number..).count() + self.removed.range(number..).count()
    }
}

pub(super) struct Teller {
    hours: Hours,
    begun: Instant,
    told: Arc<Mutex<Told>>,
    is_closing: Arc<AtomicBool>,
    client: i64,
}

/// A teller that is let in.
struct Session<'a> {
    client: Client,
    connection: JoinHandle<()>,
    entry: Statement,
    teller: &'a Teller,
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Teller {
    pub fn new(hours: Hours, begun: Instant, told: Arc<Mutex<Told>>, is_closing: Arc<AtomicBool>) -> Self {
        let client = lock(&told).client;
        Self { hours, begun, told, is_closing, client }
    }

    /// Until the bank closes: a transaction after the other, in a session after
    /// the other where one is lost.
    pub async fn work(self) {
        let mut number = 0;
        while !self.is_closing.load(Ordering::Relaxed) {
            match self.session().await {
                Ok(session) => self.work_in(&session, &mut number).await,
                Err(error) => {
                    self.complains(number, &error);
                    sleep(PAUSE).await; // between two tries, not for an effect
                }
            }
        }
    }

    async fn session(&self) -> Result<Session<'_>, String> {
        let connected = timeout(PATIENCE, self.hours.config.connect(NoTls)).await;
        let (client, connection) =
            connected.map_err(|_| "neither let in nor refused".to_owned())?.map_err(|error| words(&error))?;
        let connection = tokio::spawn(async move { drop(connection.await) });
        let prepared = timeout(PATIENCE, client.prepare(ENTRY)).await;
        let entry = match prepared {
            Ok(Ok(entry)) => entry,
            Ok(Err(error)) => return Err(words(&error)),
            Err(_) => return Err("a statement was not prepared in time".to_owned()),
        };
        self.ends();
        Ok(Session { client, connection, entry, teller: self })
    }

    async fn work_in(&self, session: &Session<'_>, number: &mut i64) {
        while !self.is_closing.load(Ordering::Relaxed) {
            let done = match timeout(PATIENCE, session.transaction(*number)).await {
                Ok(done) => done.map_err(|error| words(&error)),
                Err(_) => Err("never answered".to_owned()),
            };
            *number += 1;
            if let Err(error) = done {
                self.complains(*number - 1, &error);
                return;
            }
            if !self.hours.thinks.is_zero() {
                sleep(self.hours.thinks).await;
                self.starts_over();
            }
        }
    }

    /// A statement has ended now.
    fn ends(&self) {
        let at = self.begun.elapsed();
        let mut told = lock(&self.told);
        let length = told.gaps.last().map_or(Duration::ZERO, |last| at.saturating_sub(last.until));
        told.gaps.push(Gap { until: at, length });
    }

    /// The time of thinking is no wait.
    fn starts_over(&self) {
        let until = self.begun.elapsed();
        lock(&self.told).gaps.push(Gap { until, length: Duration::ZERO });
    }

    fn complains(&self, number: i64, error: &str) {
        let at = self.begun.elapsed().as_secs_f64();
        let text = format!("teller {}, transaction {number}, at {at:.3} s: {error}", self.client);
        let mut told = lock(&self.told);
        if told.errors.len() < ERRORS_MAX {
            told.errors.push(text);
        }
    }
}

impl Session<'_> {
    async fn transaction(&self, number: i64) -> Result<(), Error> {
        match number % 5 {
            0 => self.transfers(number).await,
            1 => self.transfers_in_texts(number).await,
            2 => self.appends(number).await,
            3 => self.counts(number).await,
            _ => self.appends_and_removes(number).await,
        }
    }

    /// Two accounts that differ, and an amount.
    fn picks(&self, number: i64) -> (i64, i64, i64) {
        let accounts = self.teller.hours.opening.accounts;
        let mixed = mix((self.teller.client.unsigned_abs() << 32) ^ number.unsigned_abs());
        let [first, second, amount] = [mixed & 0xffff, (mixed >> 16) & 0xffff, (mixed >> 32) & 0xffff]
            .map(|part| i64::try_from(part).unwrap_or_default());
        let debit = first % accounts + 1;
        let credit = (debit + second % (accounts - 1)) % accounts + 1;
        (debit, credit, amount % 100 + 1)
    }

    /// Money from one account to another, by statements with parameters.
    async fn transfers(&self, number: i64) -> Result<(), Error> {
        let (debit, credit, amount) = self.picks(number);
        self.client.batch_execute("begin").await?;
        self.teller.ends();
        // Whoever locks in the order of the keys waits for nobody who waits for him.
        let locked = "select id from accounts where id in ($1, $2) order by id for update";
        self.client.query(locked, &[&debit, &credit]).await?;
        self.teller.ends();
        let change = "update accounts set balance = balance + $2 where id = $1";
        for (account, by) in [(debit, -amount), (credit, amount)] {
            self.client.execute(change, &[&account, &by]).await?;
            self.teller.ends();
        }
        let id = self.enters(number, debit, credit, amount).await?;
        self.client.batch_execute("commit").await?;
        self.is_done(number, id);
        Ok(())
    }

    /// The same by simple statements.
    async fn transfers_in_texts(&self, number: i64) -> Result<(), Error> {
        let (debit, credit, amount) = self.picks(number);
        let client = self.teller.client;
        self.begins(number);
        for text in [
            "begin".to_owned(),
            format!("select id from accounts where id in ({debit}, {credit}) order by id for update"),
            format!("update accounts set balance = balance - {amount} where id = {debit}"),
            format!("update accounts set balance = balance + {amount} where id = {credit}"),
        ] {
            self.client.simple_query(&text).await?;
            self.teller.ends();
        }
        let entry = format!(
            "insert into journal (client, number, debit, credit, amount)
             values ({client}, {number}, {debit}, {credit}, {amount}) returning id"
        );
        let id = self.is_given(&self.client.simple_query(&entry).await?);
        self.teller.ends();
        self.client.simple_query("commit").await?;
        self.is_done(number, id);
        Ok(())
    }

    /// A transaction of one statement, which was prepared long ago.
    async fn appends(&self, number: i64) -> Result<(), Error> {
        let id = self.enters(number, 1, 1, 0).await?;
        lock(&self.teller.told).acknowledged.insert(number, id);
        Ok(())
    }

    /// The sum of all accounts is what it was, whenever one asks.
    async fn counts(&self, number: i64) -> Result<(), Error> {
        let query = "select coalesce(sum(balance), 0)::bigint, count(*) from accounts";
        let row = self.client.query_one(query, &[]).await?;
        self.teller.ends();
        let accounts = self.teller.hours.opening.accounts;
        let seen: (i64, i64) = (row.get(0), row.get(1));
        if seen != (accounts * OPENING, accounts) {
            self.teller.complains(number, &format!("{} in {} accounts were seen", seen.0, seen.1));
        }
        Ok(())
    }

    /// What is removed leaves its number behind, which nobody may get again.
    async fn appends_and_removes(&self, number: i64) -> Result<(), Error> {
        let id = self.enters(number, 1, 1, 0).await?;
        self.client.execute("delete from journal where id = $1", &[&id]).await?;
        self.teller.ends();
        lock(&self.teller.told).removed.insert(number);
        Ok(())
    }

    /// An entry by the statement that was prepared; its id.
    async fn enters(&self, number: i64, debit: i64, credit: i64, amount: i64) -> Result<i64, Error> {
        self.begins(number);
        let client = self.teller.client;
        let row = self.client.query_one(&self.entry, &[&client, &number, &debit, &credit, &amount]).await?;
        self.teller.ends();
        let id = row.get(0);
        lock(&self.teller.told).ids.push(id);
        Ok(id)
    }

    fn is_given(&self, answer: &[SimpleQueryMessage]) -> i64 {
        let id = answer.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(0)?.parse().ok(),
            _ => None,
        });
        let id = id.unwrap_or(i64::MIN);
        lock(&self.teller.told).ids.push(id);
        id
    }

    fn begins(&self, number: i64) {
        lock(&self.teller.told).tried.insert(number);
    }

    fn is_done(&self, number: i64, id: i64) {
        self.teller.ends();
        lock(&self.teller.told).acknowledged.insert(number, id);
    }
}

/// An error with its SQLSTATE and hint, which the code is in.
fn words(error: &Error) -> String {
    match error.as_db_error() {
        Some(told) => {
            format!("{} {}: {:?} {:?}", told.code().code(), told.message(), told.detail(), told.hint())
        }
        None => format!("{error:?}"),
    }
}

/// Numbers without a pattern from numbers in a row (the finaliser of `SplitMix64`,
/// Steele, Lea and Flood 2014).
const fn mix(number: u64) -> u64 {
    let number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}
