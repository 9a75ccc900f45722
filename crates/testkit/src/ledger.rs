//! What clients tell of their transactions, held against the rows that are
//! there in the end.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Each transaction of a crowd writes so many rows, which come and go together.
pub const PARTS: [i32; 2] = [1, 2];

/// What one client tells.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Story {
    /// The client's tenant.
    pub tenant: String,
    /// The client's number, which no other client has, of whatever tenant.
    pub client: i64,
    /// The numbers of the transactions that it began.
    pub tried: BTreeSet<i64>,
    /// Of those it was told that they are committed.
    pub acknowledged: BTreeSet<i64>,
    /// What it was told and should not have been, in words.
    pub wrong: Vec<String>,
}

/// A row that a transaction wrote.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Row {
    /// The tenant in whose table it is.
    pub tenant: String,
    /// Who wrote it.
    pub client: i64,
    /// In which of its transactions.
    pub number: i64,
    /// Which of the transaction's rows it is.
    pub part: i32,
}

/// What must not be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Complaint {
    /// A client was told what is not its own.
    Wrong(String),
    /// A transaction was acknowledged, and is not there.
    Lost(Row),
    /// It is there more than once.
    Twice(Row),
    /// A part of it is there alone.
    Torn(Row),
    /// Nobody of the tenant has begun it.
    Strange(Row),
}

impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Wrong(what) => f.write_str(what),
            Self::Lost(row) => write!(f, "acknowledged and lost: {row:?}"),
            Self::Twice(row) => write!(f, "there more than once: {row:?}"),
            Self::Torn(row) => write!(f, "alone, without its other part: {row:?}"),
            Self::Strange(row) => write!(f, "begun by nobody: {row:?}"),
        }
    }
}

/// Holds what the clients tell against all rows of their tenants.
#[must_use]
pub fn complaints(stories: &[Story], rows: &[Row]) -> Vec<Complaint> {
    let mut counts: BTreeMap<&Row, usize> = BTreeMap::new();
    rows.iter().for_each(|row| *counts.entry(row).or_default() += 1);
    let mut complaints: Vec<_> =
        stories.iter().flat_map(|story| &story.wrong).cloned().map(Complaint::Wrong).collect();
    for (&row, count) in &counts {
        let is_tried = |story: &Story| {
            story.tenant == row.tenant && story.client == row.client && story.tried.contains(&row.number)
        };
        if !PARTS.contains(&row.part) || !stories.iter().any(is_tried) {
            complaints.push(Complaint::Strange(row.clone()));
        }
        if *count > 1 {
            complaints.push(Complaint::Twice(row.clone()));
        }
        if PARTS.iter().any(|part| !counts.contains_key(&Row { part: *part, ..row.clone() })) {
            complaints.push(Complaint::Torn(row.clone()));
        }
    }
    for story in stories {
        for number in &story.acknowledged {
            let row =
                Row { tenant: story.tenant.clone(), client: story.client, number: *number, part: PARTS[0] };
            if !counts.contains_key(&row) {
                complaints.push(Complaint::Lost(row));
            }
        }
    }
    complaints
}

#[cfg(test)]
mod tests {
    use super::*;

    fn story(tenant: &str, client: i64, tried: i64, acknowledged: i64) -> Story {
        Story {
            tenant: tenant.to_owned(),
            client,
            tried: (0..tried).collect(),
            acknowledged: (0..acknowledged).collect(),
            wrong: Vec::new(),
        }
    }

    fn row(tenant: &str, client: i64, number: i64, part: i32) -> Row {
        Row { tenant: tenant.to_owned(), client, number, part }
    }

    /// Two clients of two tenants; of each three transactions are begun, two
    /// acknowledged, and the third is there of the one alone.
    fn honest() -> (Vec<Story>, Vec<Row>) {
        let of = |tenant, client, count| {
            let row = move |number| PARTS.map(|part| row(tenant, client, number, part));
            (0..count).flat_map(row)
        };
        (
            vec![story("acme", 1, 3, 2), story("globex", 2, 3, 2)],
            of("acme", 1, 2).chain(of("globex", 2, 3)).collect(),
        )
    }

    #[test]
    fn an_honest_ledger_is_without_complaint() {
        let (stories, rows) = honest();
        assert_eq!(complaints(&stories, &rows), []);
        assert_eq!(complaints(&[], &[]), []);
    }

    #[test]
    fn every_forged_ledger_is_found_out() {
        let forged = |forge: fn(&mut Vec<Story>, &mut Vec<Row>)| {
            let (mut stories, mut rows) = honest();
            forge(&mut stories, &mut rows);
            complaints(&stories, &rows)
        };
        let lost = forged(|_, rows| rows.retain(|row| row.client != 1 || row.number != 1));
        assert_eq!(lost, [Complaint::Lost(row("acme", 1, 1, 1))]);
        let untrue = forged(|stories, _| assert!(stories[0].acknowledged.insert(2)));
        assert_eq!(untrue, [Complaint::Lost(row("acme", 1, 2, 1))]);
        let again = forged(|_, rows| rows.push(rows[0].clone()));
        assert_eq!(again, [Complaint::Twice(row("acme", 1, 0, 1))]);
        let torn = forged(|_, rows| drop(rows.remove(0)));
        assert!(torn.contains(&Complaint::Torn(row("acme", 1, 0, 2))), "{torn:?}");
        let moved = forged(|_, rows| rows.iter_mut().for_each(|row| row.tenant = "acme".to_owned()));
        assert!(moved.contains(&Complaint::Strange(row("acme", 2, 0, 1))), "{moved:?}");
        assert!(moved.contains(&Complaint::Lost(row("globex", 2, 0, 1))), "{moved:?}");
        let unasked = forged(|stories, _| assert!(stories[1].tried.remove(&2)));
        assert!(unasked.contains(&Complaint::Strange(row("globex", 2, 2, 1))), "{unasked:?}");
        let told = forged(|stories, _| stories[0].wrong.push("another's row".to_owned()));
        assert_eq!(told, [Complaint::Wrong("another's row".to_owned())]);
    }
}
