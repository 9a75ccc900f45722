//! A crowd of clients that go on whatever happens: each writes transactions and
//! asks questions all the time, comes again when it is thrown out, and keeps
//! account of what it was told.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_postgres::{Client, Config, Error, NoTls};

use crate::ledger::{Row, Story};

/// The table that each tenant needs, with a key of its own beside these columns
/// where it must have one.
pub const LEDGER: &str = "create table ledger (client bigint not null, number bigint not null, \
                          part int not null, id bigint generated always as identity primary key)";

/// Rows of a question.
const ROWS: i32 = 40;

/// How long one that has no patience waits.
const SHORT_PATIENCE: Duration = Duration::from_millis(700);

/// The longest that anything takes, a stall of some seconds among it.
const PATIENCE: Duration = Duration::from_secs(30);

/// Between two tries to come in.
const PAUSE: Duration = Duration::from_millis(20);

/// What the server or a front may say while something is broken: that a session
/// or a server ends or is not there yet, or that there is no room.
const HONEST_ERRORS: [&str; 5] = ["57P01", "57P02", "57P03", "53300", "08006"];

/// The SQLSTATE of what was cancelled.
const CANCELED: &str = "57014";

/// What a client does when an answer does not come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Temper {
    /// It waits.
    Waits,
    /// It goes away without a word, and comes again.
    Leaves,
    /// It cancels, and waits for what comes of it.
    Cancels,
}

impl Temper {
    /// One of them, in turn.
    #[must_use]
    pub fn nth(number: usize) -> Self {
        [Self::Waits, Self::Leaves, Self::Cancels][number % 3]
    }
}

/// A client of a crowd.
#[derive(Debug, Clone)]
pub struct Member {
    /// Where and as whom it connects.
    pub config: Config,
    /// The tenant that it is of.
    pub tenant: String,
    /// The role that answers it.
    pub role: String,
    /// What it does when an answer does not come.
    pub temper: Temper,
}

/// Clients at work, until they are stopped.
#[derive(Debug)]
pub struct Crowd {
    stories: Vec<Arc<Mutex<Story>>>,
    tasks: Vec<JoinHandle<()>>,
}

impl Crowd {
    /// Starts them all.
    #[must_use]
    pub fn start(members: Vec<Member>) -> Self {
        let (mut stories, mut tasks) = (Vec::new(), Vec::new());
        for (client, member) in (0..).zip(members) {
            let story = Story { tenant: member.tenant.clone(), client, ..Story::default() };
            let story = Arc::new(Mutex::new(story));
            stories.push(Arc::clone(&story));
            tasks.push(tokio::spawn(async move { member.live(&story).await }));
        }
        Self { stories, tasks }
    }

    /// Waits until each has been told of so many more commits, of transactions
    /// that were begun since.
    ///
    /// # Panics
    /// Where that takes too long; the text says who was not.
    pub async fn until_each_commits(&self, count: usize, within: Duration) {
        let begun = Instant::now();
        let last = |story: &Arc<Mutex<Story>>| lock(story).tried.last().copied().unwrap_or(-1);
        let from: Vec<i64> = self.stories.iter().map(last).collect();
        loop {
            let behind: Vec<usize> = (0..self.stories.len())
                .filter(|index| {
                    lock(&self.stories[*index]).acknowledged.range(from[*index] + 1..).count() < count
                })
                .collect();
            if behind.is_empty() {
                return;
            }
            assert!(begun.elapsed() < within, "these clients do not go on: {behind:?}");
            sleep(PAUSE).await; // between two looks, not for an effect
        }
    }

    /// Lets all of them leave, wherever they are, and gives what they tell.
    pub async fn stop(self) -> Vec<Story> {
        for task in self.tasks {
            task.abort();
            // It ends as aborted, or has failed; what it told until then counts.
            if let Err(error) = task.await {
                assert!(error.is_cancelled(), "a client of the crowd failed: {error}");
            }
        }
        self.stories.iter().map(|story| lock(story).clone()).collect()
    }
}

/// All rows of a tenant's table that its clients have written.
///
/// # Errors
/// Those of the server.
pub async fn ledger_rows(client: &Client, tenant: &str, table: &str) -> Result<Vec<Row>, Error> {
    let rows = client.query(&format!("select client, number, part from {table}"), &[]).await?;
    let row = |row: &tokio_postgres::Row| Row {
        tenant: tenant.to_owned(),
        client: row.get(0),
        number: row.get(1),
        part: row.get(2),
    };
    Ok(rows.iter().map(row).collect())
}

/// A client that is connected.
struct Session<'a> {
    client: Client,
    connection: JoinHandle<()>,
    member: &'a Member,
    story: &'a Mutex<Story>,
}

impl Drop for Session<'_> {
    /// It leaves without a word, also where it waits for an answer.
    fn drop(&mut self) {
        self.connection.abort();
    }
}

/// What came of one try.
enum Came {
    Fine,
    /// The session is over, or not to be used any more.
    Over,
}

impl Member {
    async fn live(&self, story: &Mutex<Story>) {
        let mut number = 0;
        loop {
            let (client, connection) = match timeout(PATIENCE, self.config.connect(NoTls)).await {
                Ok(Ok(connected)) => connected,
                refused => {
                    match refused {
                        Ok(Err(error)) if !is_honest(&error) => {
                            wrong(story, &format!("not let in: {error:?}"))
                        }
                        Ok(_) => {}
                        Err(_) => wrong(story, "neither let in nor refused"),
                    }
                    sleep(PAUSE).await; // between two tries, not for an effect
                    continue;
                }
            };
            let connection = tokio::spawn(async move { drop(connection.await) });
            let session = Session { client, connection, member: self, story };
            while let Came::Fine = session.attempt(number).await {
                number += 1;
            }
            number += 1;
        }
    }
}

impl Session<'_> {
    /// One try, as this client's temper lets it.
    async fn attempt(&self, number: i64) -> Came {
        let mut has_cancelled = false;
        let done = match self.member.temper {
            Temper::Waits => timeout(PATIENCE, self.ask(number)).await,
            Temper::Leaves => match timeout(SHORT_PATIENCE, self.ask(number)).await {
                Ok(done) => Ok(done),
                Err(_) => return Came::Over,
            },
            Temper::Cancels => {
                let mut asked = std::pin::pin!(self.ask(number));
                match timeout(SHORT_PATIENCE, asked.as_mut()).await {
                    Ok(done) => Ok(done),
                    Err(_) => {
                        has_cancelled = true;
                        let cancelled = self.client.cancel_token();
                        // Where it fails, the answer is waited for all the same.
                        tokio::spawn(async move { cancelled.cancel_query(NoTls).await });
                        timeout(PATIENCE, asked).await
                    }
                }
            }
        };
        match done {
            // The cancel may be late, and its session is over with this.
            Ok(Ok(())) if has_cancelled => Came::Over,
            Ok(Ok(())) => Came::Fine,
            Ok(Err(error)) => self.failed(&error, has_cancelled).await,
            Err(_) => {
                wrong(self.story, &format!("number {number} was never answered"));
                Came::Over
            }
        }
    }

    async fn ask(&self, number: i64) -> Result<(), Error> {
        match number % 4 {
            0 => self.write_at_once(number).await,
            1 => self.write_step_by_step(number).await,
            2 => {
                let (first, second, third) = tokio::join!(
                    self.question(number, "first"),
                    self.write_at_once(number),
                    self.question(number, "third"),
                );
                first.and(second).and(third)
            }
            _ => self.question(number, "alone").await,
        }
    }

    /// A transaction of one statement.
    async fn write_at_once(&self, number: i64) -> Result<(), Error> {
        self.begins(number);
        let insert = "insert into ledger (client, number, part) values ($1, $2, 1), ($1, $2, 2)
                      returning client || '/' || number || '/' || part, current_user::text";
        let client = self.name();
        let rows = self.client.query(insert, &[&client, &number]).await?;
        self.check(&rows, [1, 2].map(|part| format!("{client}/{number}/{part}")).to_vec());
        self.commits(number);
        Ok(())
    }

    /// One of many, by a named statement, which has to stay on one backend.
    async fn write_step_by_step(&self, number: i64) -> Result<(), Error> {
        let insert = "insert into ledger (client, number, part) values ($1, $2, $3)
                      returning client || '/' || number || '/' || part, current_user::text";
        let client = self.name();
        let statement = self.client.prepare(insert).await?;
        self.client.batch_execute("begin").await?;
        self.begins(number);
        for part in [1, 2] {
            let rows = self.client.query(&statement, &[&client, &number, &part]).await?;
            self.check(&rows, vec![format!("{client}/{number}/{part}")]);
        }
        self.client.batch_execute("commit").await?;
        self.commits(number);
        Ok(())
    }

    /// Asks for rows that nobody else asks for.
    async fn question(&self, number: i64, which: &str) -> Result<(), Error> {
        let own = format!("{}/{number}/{which}", self.name());
        let query = "select $1::text || '/' || n, current_user::text from generate_series(1, $2::int) as n";
        let rows = self.client.query(query, &[&own, &ROWS]).await?;
        self.check(&rows, (1..=ROWS).map(|row| format!("{own}/{row}")).collect());
        Ok(())
    }

    /// The rows must be these, from the tenant's own role.
    fn check(&self, rows: &[tokio_postgres::Row], expected: Vec<String>) {
        let role = &self.member.role;
        let expected: Vec<_> = expected.into_iter().map(|text| (text, role.clone())).collect();
        let seen: Vec<(String, String)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
        if let Some(different) = difference(&expected, &seen) {
            wrong(self.story, &different);
        }
    }

    /// After an error: whether the session goes on.
    async fn failed(&self, error: &Error, has_cancelled: bool) -> Came {
        let is_own = has_cancelled && error.code().is_some_and(|code| code.code() == CANCELED);
        if !is_own && !is_honest(error) {
            wrong(self.story, &format!("an error of nobody's making: {error:?}"));
        }
        // Where a transaction is open, it is rolled back.
        match timeout(SHORT_PATIENCE, self.client.batch_execute("rollback")).await {
            Ok(Ok(())) if !has_cancelled => Came::Fine,
            _ => Came::Over,
        }
    }

    fn name(&self) -> i64 {
        lock(self.story).client
    }

    fn begins(&self, number: i64) {
        lock(self.story).tried.insert(number);
    }

    fn commits(&self, number: i64) {
        lock(self.story).acknowledged.insert(number);
    }
}

/// What a server may say that is broken, or the end of the connection.
fn is_honest(error: &Error) -> bool {
    error.code().is_none_or(|code| HONEST_ERRORS.contains(&code.code()))
}

fn wrong(story: &Mutex<Story>, what: &str) {
    let mut story = lock(story);
    let what = format!("client {} of {}: {what}", story.client, story.tenant);
    story.wrong.push(what);
}

/// How what was seen differs from what was to be seen, in words.
fn difference(expected: &[(String, String)], seen: &[(String, String)]) -> Option<String> {
    if expected.len() != seen.len() {
        return Some(format!("{} rows came, {} were asked for", seen.len(), expected.len()));
    }
    let different = expected.iter().zip(seen).find(|(expected, seen)| expected != seen)?;
    Some(format!("{:?} came where {:?} was asked for", different.1, different.0))
}

fn lock(story: &Mutex<Story>) -> MutexGuard<'_, Story> {
    story.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn anothers_rows_are_found_out() {
        let rows = |client: i64, role: &str| {
            let row = |part| (format!("{client}/7/{part}"), role.to_owned());
            [1, 2].map(row).to_vec()
        };
        assert_eq!(difference(&rows(1, "a"), &rows(1, "a")), None);
        assert!(difference(&rows(1, "a"), &rows(2, "a")).is_some(), "another client's");
        assert!(difference(&rows(1, "a"), &rows(1, "b")).is_some(), "another tenant's");
        assert!(difference(&rows(1, "a"), &rows(1, "a")[..1]).is_some(), "too few");
        assert!(difference(&rows(1, "a")[..1], &rows(1, "a")).is_some(), "too many");
    }
}
