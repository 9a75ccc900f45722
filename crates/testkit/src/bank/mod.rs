//! A load that must not notice that its tenant moves: tellers who move money
//! between accounts whose sum stays the same, write all of it down in a journal
//! whose numbers come from a sequence, and keep account of what they were told
//! and of how long they waited for it.

mod books;
mod pauses;
mod teller;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;
use tokio::time::sleep;
use tokio_postgres::{Client, Config, Error};

pub use books::{Books, Entry, Fault, faults};
pub use pauses::{Gap, longest_gap, pauses, typical_gap};
pub use teller::Told;

/// The app schema of a bank. Texts of accounts are too long to stand in the row
/// itself, and no teller changes them.
pub const BANK: &str =
    "create table accounts (id bigint primary key, balance bigint not null, about text not null);
    create table journal (id bigint generated always as identity primary key, client bigint not null, \
    number bigint not null, debit bigint not null, credit bigint not null, amount bigint not null);";

/// What is in each account at the opening.
pub const OPENING: i64 = 1_000;

/// The text of an account, whose id is the expression that stands for `$`.
const ABOUT: &str = "(select string_agg(md5($ || '/' || part), '') from generate_series(1, 100) as part)";

/// The client of the rows that are there before any teller.
const NOBODY: i64 = -1;

/// Between two looks at how far all are.
const LOOK: Duration = Duration::from_millis(20);

/// What a bank begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opening {
    /// Accounts, numbered from one.
    pub accounts: i64,
    /// Rows of the journal from before.
    pub history: i64,
}

impl Opening {
    /// Writes it, as the tenant.
    ///
    /// # Errors
    /// Those of the server.
    pub async fn write(&self, client: &Client) -> Result<(), Error> {
        let about = ABOUT.replace('$', "account");
        let accounts = format!(
            "insert into accounts (id, balance, about)
             select account, {OPENING}, {about} from generate_series(1, {}) as account",
            self.accounts
        );
        let history = format!(
            "insert into journal (client, number, debit, credit, amount)
             select {NOBODY}, number, 1, 1, 0 from generate_series(1, {}) as number",
            self.history
        );
        client.batch_execute(&accounts).await?;
        client.batch_execute(&history).await
    }
}

/// How the tellers work.
#[derive(Debug, Clone)]
pub struct Hours {
    /// Where and as whom they connect.
    pub config: Config,
    /// How many there are.
    pub tellers: i64,
    /// How long each thinks between two transactions.
    pub thinks: Duration,
    /// What was there before.
    pub opening: Opening,
}

/// Tellers at work, until the bank closes.
#[derive(Debug)]
pub struct Bank {
    begun: Instant,
    is_closing: Arc<AtomicBool>,
    told: Vec<Arc<Mutex<Told>>>,
    tellers: Vec<JoinHandle<()>>,
}

impl Bank {
    /// Lets all begin.
    #[must_use]
    pub fn opens(hours: &Hours) -> Self {
        let begun = Instant::now();
        let is_closing = Arc::new(AtomicBool::new(false));
        let mut bank = Self { begun, is_closing, told: Vec::new(), tellers: Vec::new() };
        for client in 0..hours.tellers {
            let told = Arc::new(Mutex::new(Told { client, ..Told::default() }));
            bank.told.push(Arc::clone(&told));
            let teller = teller::Teller::new(hours.clone(), begun, told, Arc::clone(&bank.is_closing));
            bank.tellers.push(tokio::spawn(teller.work()));
        }
        bank
    }

    /// How long it has been open: the time that gaps are counted in.
    #[must_use]
    pub fn open_for(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Waits until each teller was told of so many more transactions, of those
    /// begun since.
    ///
    /// # Panics
    /// Where that takes too long; the text says who was not, and what they were
    /// told.
    pub async fn until_each_has_done(&self, count: usize, within: Duration) {
        let begun = Instant::now();
        let next: Vec<i64> = self.told.iter().map(|told| lock(told).next()).collect();
        loop {
            let is_behind = |index: &usize| lock(&self.told[*index]).done_since(next[*index]) < count;
            let behind: Vec<usize> = (0..self.told.len()).filter(is_behind).collect();
            if behind.is_empty() {
                return;
            }
            let errors = || self.errors();
            assert!(begun.elapsed() < within, "these tellers do not go on: {behind:?}\n{:#?}", errors());
            sleep(LOOK).await; // between two looks, not for an effect
        }
    }

    /// The errors that any teller was told.
    #[must_use]
    pub fn errors(&self) -> Vec<String> {
        self.told.iter().flat_map(|told| lock(told).errors.clone()).collect()
    }

    /// What was told so far.
    #[must_use]
    pub fn told(&self) -> Vec<Told> {
        self.told.iter().map(|told| lock(told).clone()).collect()
    }

    /// Each ends the transaction that it is at; what they tell.
    ///
    /// # Panics
    /// Where a teller has panicked.
    pub async fn closes(self) -> Vec<Told> {
        self.is_closing.store(true, Ordering::Relaxed);
        for teller in self.tellers {
            teller.await.expect("a teller panicked");
        }
        self.told.iter().map(|told| lock(told).clone()).collect()
    }
}

fn lock(told: &Mutex<Told>) -> MutexGuard<'_, Told> {
    told.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::TestDatabase;

    const OPEN: Opening = Opening { accounts: 5, history: 20 };

    #[tokio::test]
    async fn a_bank_that_nobody_disturbs_is_without_a_fault_and_one_that_is_robbed_is_not() {
        let database = TestDatabase::create("bank").await;
        let client = database.connect().await;
        client.batch_execute(BANK).await.unwrap();
        OPEN.write(&client).await.unwrap();
        let config: Config = database.url().parse().unwrap();
        let hours = Hours { config, tellers: 4, thinks: Duration::from_millis(1), opening: OPEN };
        let bank = Bank::opens(&hours);
        bank.until_each_has_done(8, Duration::from_secs(20)).await;
        let span = Duration::ZERO..bank.open_for();
        let told = bank.closes().await;
        let books = Books::read(&client).await.unwrap();
        assert_eq!(faults(OPEN, &told, &books), []);
        assert!(told.iter().all(|told| longest_gap(told, &span) >= typical_gap(told, &span)));

        let robbed = "delete from journal where id = (select min(id) from journal where client = 0)";
        client.batch_execute(robbed).await.unwrap();
        client.batch_execute("update accounts set about = 'x' where id = 3").await.unwrap();
        let robbed = faults(OPEN, &told, &Books::read(&client).await.unwrap());
        assert!(robbed.contains(&Fault::Torn(3)), "{robbed:?}");
        assert!(robbed.iter().any(|fault| matches!(fault, Fault::Lost(0, _))), "{robbed:?}");
    }
}
