//! What tellers tell, held against the rows that are there in the end.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use tokio_postgres::{Client, Error};

use super::{ABOUT, NOBODY, OPENING, Opening, Told};

/// A row of the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Its key, from the sequence.
    pub id: i64,
    /// Who wrote it.
    pub client: i64,
    /// In which of its transactions.
    pub number: i64,
    /// The account from which the amount went.
    pub debit: i64,
    /// The account to which it went.
    pub credit: i64,
    /// How much.
    pub amount: i64,
}

/// All that is in a bank.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Books {
    /// Balances by account.
    pub balances: BTreeMap<i64, i64>,
    /// Accounts whose text is another one.
    pub torn: Vec<i64>,
    /// The journal, without the rows from before.
    pub journal: Vec<Entry>,
    /// How many rows from before there are.
    pub history: i64,
}

impl Books {
    /// Reads them, as the tenant.
    ///
    /// # Errors
    /// Those of the server.
    pub async fn read(client: &Client) -> Result<Self, Error> {
        let about = ABOUT.replace('$', "id");
        let accounts =
            client.query(&format!("select id, balance, about = {about} from accounts"), &[]).await?;
        let history = "select count(*) from journal where client = $1";
        let history = client.query_one(history, &[&NOBODY]).await?.get(0);
        let journal = "select id, client, number, debit, credit, amount from journal where client <> $1";
        let journal = client.query(journal, &[&NOBODY]).await?;
        let entry = |row: &tokio_postgres::Row| Entry {
            id: row.get(0),
            client: row.get(1),
            number: row.get(2),
            debit: row.get(3),
            credit: row.get(4),
            amount: row.get(5),
        };
        Ok(Self {
            balances: accounts.iter().map(|row| (row.get(0), row.get(1))).collect(),
            torn: accounts.iter().filter(|row| !row.get::<_, bool>(2)).map(|row| row.get(0)).collect(),
            journal: journal.iter().map(entry).collect(),
            history,
        })
    }
}

/// What must not be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// A teller was told an error.
    Error(String),
    /// A transaction was acknowledged, and is not there: client and number.
    Lost(i64, i64),
    /// It is there more than once.
    Twice(i64, i64),
    /// What was removed is there.
    Risen(i64, i64),
    /// Nobody has begun it.
    Strange(i64, i64),
    /// It is there under another id than was told.
    OtherId(i64, i64),
    /// The sequence gave a number twice.
    IdTwice(i64),
    /// An account does not have what the journal says: account, wanted, found.
    Balance(i64, i64, Option<i64>),
    /// An account's text is another one.
    Torn(i64),
    /// Rows from before are not all there: wanted, found.
    History(i64, i64),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Error(error) => f.write_str(error),
            Self::Lost(client, number) => write!(f, "acknowledged and lost: {number} of teller {client}"),
            Self::Twice(client, number) => write!(f, "there more than once: {number} of teller {client}"),
            Self::Risen(client, number) => write!(f, "removed and there: {number} of teller {client}"),
            Self::Strange(client, number) => write!(f, "begun by nobody: {number} of teller {client}"),
            Self::OtherId(client, number) => write!(f, "under another id: {number} of teller {client}"),
            Self::IdTwice(id) => write!(f, "the sequence gave {id} twice"),
            Self::Balance(account, wanted, found) => {
                write!(f, "account {account} has {found:?} and should have {wanted}")
            }
            Self::Torn(account) => write!(f, "the text of account {account} is another one"),
            Self::History(wanted, found) => write!(f, "{found} rows from before, and not {wanted}"),
        }
    }
}

/// Holds what the tellers tell against the books.
#[must_use]
pub fn faults(opening: Opening, told: &[Told], books: &Books) -> Vec<Fault> {
    let mut faults: Vec<_> =
        told.iter().flat_map(|told| told.errors.iter().cloned().map(Fault::Error)).collect();
    faults.extend(of_entries(told, books));
    faults.extend(of_ids(told));
    faults.extend(of_balances(opening, books));
    faults.extend(books.torn.iter().map(|account| Fault::Torn(*account)));
    if books.history != opening.history {
        faults.push(Fault::History(opening.history, books.history));
    }
    faults
}

fn of_entries(told: &[Told], books: &Books) -> Vec<Fault> {
    let mut faults = Vec::new();
    let tellers: BTreeMap<i64, &Told> = told.iter().map(|told| (told.client, told)).collect();
    let mut there: BTreeMap<(i64, i64), Vec<i64>> = BTreeMap::new();
    for entry in &books.journal {
        there.entry((entry.client, entry.number)).or_default().push(entry.id);
    }
    for (&(client, number), ids) in &there {
        let teller = tellers.get(&client);
        if teller.is_none_or(|told| !told.tried.contains(&number)) {
            faults.push(Fault::Strange(client, number));
        }
        if ids.len() > 1 {
            faults.push(Fault::Twice(client, number));
        }
        if teller.is_some_and(|told| told.removed.contains(&number)) {
            faults.push(Fault::Risen(client, number));
        }
    }
    for told in told {
        for (&number, id) in &told.acknowledged {
            match there.get(&(told.client, number)) {
                None => faults.push(Fault::Lost(told.client, number)),
                Some(ids) if !ids.contains(id) => faults.push(Fault::OtherId(told.client, number)),
                Some(_) => {}
            }
        }
    }
    faults
}

fn of_ids(told: &[Told]) -> Vec<Fault> {
    let mut given = BTreeSet::new();
    let again = told.iter().flat_map(|told| &told.ids).filter(|id| !given.insert(**id));
    again.map(|id| Fault::IdTwice(*id)).collect()
}

/// Each account has what the journal makes of the opening.
fn of_balances(opening: Opening, books: &Books) -> Vec<Fault> {
    let mut wanted: BTreeMap<i64, i64> = (1..=opening.accounts).map(|account| (account, OPENING)).collect();
    for entry in &books.journal {
        *wanted.entry(entry.debit).or_default() -= entry.amount;
        *wanted.entry(entry.credit).or_default() += entry.amount;
    }
    let accounts: BTreeSet<i64> = wanted.keys().chain(books.balances.keys()).copied().collect();
    let differs = |account: &i64| wanted.get(account) != books.balances.get(account);
    let fault = |account: i64| {
        let should = wanted.get(&account).copied().unwrap_or_default();
        Fault::Balance(account, should, books.balances.get(&account).copied())
    };
    accounts.into_iter().filter(differs).map(fault).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPEN: Opening = Opening { accounts: 2, history: 5 };

    /// A teller with a transfer, an append, one that it removed, and one of
    /// which it does not know what came; the last is there.
    fn honest() -> (Told, Books) {
        let told = Told {
            client: 7,
            tried: (0..4).collect(),
            acknowledged: [(0, 10), (1, 11)].into(),
            removed: [2].into(),
            ids: vec![10, 11, 12, 13],
            ..Told::default()
        };
        let entry = |id, number, amount| Entry { id, client: 7, number, debit: 1, credit: 2, amount };
        let books = Books {
            balances: [(1, 970), (2, 1_030)].into(),
            torn: Vec::new(),
            journal: vec![entry(10, 0, 30), entry(11, 1, 0), entry(13, 3, 0)],
            history: 5,
        };
        (told, books)
    }

    fn forged(forge: fn(&mut Told, &mut Books)) -> Vec<Fault> {
        let (mut told, mut books) = honest();
        forge(&mut told, &mut books);
        faults(OPEN, &[told], &books)
    }

    #[test]
    fn honest_books_are_without_a_fault() {
        assert_eq!(forged(|_, _| {}), []);
    }

    #[test]
    fn every_forgery_is_found_out() {
        assert_eq!(
            forged(|_, books| {
                books.journal.remove(1);
            }),
            [Fault::Lost(7, 1)]
        );
        let again =
            |_: &mut Told, books: &mut Books| books.journal.push(Entry { id: 14, ..books.journal[1] });
        assert_eq!(forged(again), [Fault::Twice(7, 1)]);
        assert_eq!(forged(|_, books| books.journal[1].id = 20), [Fault::OtherId(7, 1)]);
        let risen = |_: &mut Told, books: &mut Books| {
            books.journal.push(Entry { id: 12, number: 2, ..books.journal[1] });
        };
        assert_eq!(forged(risen), [Fault::Risen(7, 2)]);
        let strange = |_: &mut Told, books: &mut Books| {
            books.journal.push(Entry { id: 14, number: 9, ..books.journal[1] });
        };
        assert_eq!(forged(strange), [Fault::Strange(7, 9)]);
        assert_eq!(forged(|told, _| told.ids.push(11)), [Fault::IdTwice(11)]);
        assert_eq!(forged(|_, books| books.torn.push(2)), [Fault::Torn(2)]);
        assert_eq!(forged(|_, books| books.history = 4), [Fault::History(5, 4)]);
        assert_eq!(forged(|told, _| told.errors.push("no".to_owned())), [Fault::Error("no".to_owned())]);
    }

    #[test]
    fn money_that_comes_or_goes_is_found_out() {
        let half = forged(|_, books| {
            books.balances.insert(1, 1_000);
        });
        assert_eq!(half, [Fault::Balance(1, 970, Some(1_000))]);
        let gone = forged(|_, books| {
            books.balances.remove(&2);
        });
        assert_eq!(gone, [Fault::Balance(2, 1_030, None)]);
        let new = forged(|_, books| {
            books.balances.insert(3, 5);
        });
        assert_eq!(new, [Fault::Balance(3, 0, Some(5))]);
        // A transfer of which only the entry is there.
        let torn = forged(|_, books| books.balances = [(1, 1_000), (2, 1_000)].into());
        assert_eq!(torn.len(), 2);
    }
}
