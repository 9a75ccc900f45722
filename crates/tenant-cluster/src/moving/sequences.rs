//! Sequences: which numbers they have given, and setting them at the other end
//! so that none is given twice. Shared ones only ever go on.

use insula_problem::{Code, Problem};
use insula_sql_store::Discreet;
use tokio_postgres::{Client, Statement};

use super::{Place, identifier};
use crate::{db, literal};

/// How long a shared sequence may hold up its other users. It is locked against
/// them, and waits for transactions of theirs that have drawn from it.
const LOCK_TIMEOUT: &str = "200ms";

/// A sequence with where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sequence {
    /// Its name, in the placement's schema.
    pub name: String,
    /// What is added from one number to the next; less than 0 where it goes down.
    pub increment: i64,
    /// The least number.
    pub min: i64,
    /// The greatest number.
    pub max: i64,
    /// Whether it begins again where it ends.
    pub cycles: bool,
    /// The number that it has given last, or gives next.
    pub value: i64,
    /// Whether it has given that number.
    pub is_called: bool,
}

impl Sequence {
    /// The number that it gives next, wherever its bounds are.
    fn next(&self) -> i128 {
        i128::from(self.value) + if self.is_called { i128::from(self.increment) } else { 0 }
    }

    /// Whether another that is used the same way is further on.
    fn is_behind(&self, other: &Self) -> bool {
        if self.increment < 0 { other.next() < self.next() } else { other.next() > self.next() }
    }

    /// So many numbers further on, or at its end.
    fn ahead(mut self, numbers: u32) -> Self {
        let by = i128::from(self.increment) * i128::from(numbers);
        let value = (i128::from(self.value) + by).clamp(self.min.into(), self.max.into());
        self.value = i64::try_from(value).unwrap_or(self.value);
        self
    }
}

/// The sequences of a placement's schema, those of columns and free ones, to be
/// asked where they stand as often as is needed.
#[derive(Debug)]
pub struct SequenceReader {
    defined: Vec<Sequence>,
    /// Where there are none nothing is asked.
    read: Option<Statement>,
}

impl SequenceReader {
    /// Reads what there is. Those that come later are not seen.
    ///
    /// # Errors
    /// Where the cluster is away.
    pub async fn prepare(client: &Client, place: &Place) -> Result<Self, Problem> {
        let schema = &place.placement.schema;
        let defined = client.query(DEFINED, &[&schema.as_str()]).await.map_err(db)?;
        let defined: Vec<Sequence> = defined
            .iter()
            .map(|row| Sequence {
                name: row.get(0),
                increment: row.get(1),
                min: row.get(2),
                max: row.get(3),
                cycles: row.get(4),
                value: 0,
                is_called: false,
            })
            .collect();
        let select = |(number, sequence): (usize, &Sequence)| {
            let name = identifier(&sequence.name);
            format!("select {number}::int8, last_value, is_called from {schema}.{name}")
        };
        let reads: Vec<_> = defined.iter().enumerate().map(select).collect();
        let read = match reads.is_empty() {
            true => None,
            false => Some(client.prepare(&reads.join(" union all ")).await.map_err(db)?),
        };
        let reader = Self { defined, read };
        // A statement is planned when it is carried out for the first time, and later a tenant waits.
        reader.read(client).await?;
        Ok(reader)
    }

    /// The sequences as they stand now, asked over the connection that this was
    /// prepared on. Where tables are shared, that is where all tenants together
    /// have brought them.
    ///
    /// # Errors
    /// Where the cluster is away, or one is gone.
    pub async fn read(&self, client: &Client) -> Result<Vec<Sequence>, Problem> {
        let mut found = self.defined.clone();
        let Some(read) = &self.read else { return Ok(found) };
        for row in client.query(read, &[]).await.map_err(db)? {
            let number = usize::try_from(row.get::<_, i64>(0)).unwrap_or(usize::MAX);
            if let Some(sequence) = found.get_mut(number) {
                (sequence.value, sequence.is_called) = (row.get(1), row.get(2));
            }
        }
        Ok(found)
    }
}

/// The sequences of the placement's schema, as they stand now.
///
/// # Errors
/// Where the cluster is away.
pub async fn sequences(client: &Client, place: &Place) -> Result<Vec<Sequence>, Problem> {
    SequenceReader::prepare(client, place).await?.read(client).await
}

const DEFINED: &str = "
select c.relname::text, s.seqincrement, s.seqmin, s.seqmax, s.seqcycle
from pg_sequence s join pg_class c on c.oid = s.seqrelid
where c.relnamespace = to_regnamespace($1) and c.relpersistence = 'p' and not exists (
    select from pg_depend d
    where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'e')
order by 1";

/// Brings the target's sequences to where the source's stand, in one statement;
/// how many it moved. None goes back. A shared one that is far enough is not
/// touched; another one is locked against everybody's next number while it is
/// moved, which [`raise_sequences`] before the cutover makes rare.
///
/// # Errors
/// `move_blocked` where one is not there, its bounds are narrower, or it is
/// shared and begins again at its end. `unavailable` where other tenants hold a
/// shared one for more than 200 ms.
pub async fn set_sequences(client: &Client, target: &Place, source: &[Sequence]) -> Result<usize, Problem> {
    move_sequences(client, target, &sequences(client, target).await?, source).await
}

/// The same, where the target's have been read already. Of those that are not
/// shared nobody else may have drawn since.
///
/// # Errors
/// As [`set_sequences`].
pub async fn move_sequences(
    client: &Client,
    target: &Place,
    there: &[Sequence],
    source: &[Sequence],
) -> Result<usize, Problem> {
    let todo = to_move(source, there, target.is_pool_form())?;
    if todo.is_empty() {
        return Ok(0);
    }
    let schema = &target.placement.schema;
    let statements = if target.is_pool_form() {
        raise_shared(schema.as_str(), &todo)
    } else {
        let set = |sequence: &Sequence| {
            let name = literal(&format!("{schema}.{}", identifier(&sequence.name)));
            format!("setval({name}, {}, {})", sequence.value, sequence.is_called)
        };
        format!("select {}", todo.iter().map(set).collect::<Vec<_>>().join(", "))
    };
    match client.batch_execute(&statements).await {
        Ok(()) => Ok(todo.len()),
        Err(error) => {
            // The transaction may be open; where the connection is gone it is over.
            let _ = client.batch_execute("rollback").await;
            Err(held_up(error))
        }
    }
}

/// Brings shared sequences of the target to where the source's stand and so many
/// numbers further, before the cutover, so that nothing is left to do then. In
/// placements that are not shared it does nothing.
///
/// # Errors
/// As [`set_sequences`].
pub async fn raise_sequences(
    client: &Client,
    target: &Place,
    source: &[Sequence],
    numbers_ahead: u32,
) -> Result<usize, Problem> {
    if !target.is_pool_form() {
        return Ok(0);
    }
    let there = sequences(client, target).await?;
    let behind: Vec<_> =
        to_move(source, &there, true)?.into_iter().map(|sequence| sequence.ahead(numbers_ahead)).collect();
    set_sequences(client, target, &behind).await
}

/// The sequences that have to be moved, as they are to stand.
fn to_move(source: &[Sequence], target: &[Sequence], is_shared: bool) -> Result<Vec<Sequence>, Problem> {
    let mut todo = Vec::new();
    for from in source {
        let blocked =
            |why: &str| Problem::new(Code::MoveBlocked, format!("The sequence {} {why}.", from.name));
        let Some(to) = target.iter().find(|to| to.name == from.name) else {
            return Err(blocked("is not at the target"));
        };
        if is_shared && (from.cycles || to.cycles) {
            return Err(blocked("begins again at its end, and the target's tenants share it"));
        }
        let moved = Sequence { value: from.value, is_called: from.is_called, ..to.clone() };
        let differs = (to.value, to.is_called) != (from.value, from.is_called);
        if !(if to.cycles { differs } else { to.is_behind(from) }) {
            continue;
        }
        if from.value < to.min || from.value > to.max {
            return Err(blocked("has given numbers that the target's cannot have"));
        }
        todo.push(moved);
    }
    Ok(todo)
}

/// One transaction that takes each sequence from the others, looks where it
/// stands by then, and sets it only forward. Any `ALTER SEQUENCE` has the lock
/// (`ShareRowExclusiveLock`, which `nextval` waits for) until the end.
fn raise_shared(schema: &str, todo: &[Sequence]) -> String {
    let mut statements = format!("begin; set local lock_timeout = '{LOCK_TIMEOUT}';");
    for sequence in todo {
        let name = format!("{schema}.{}", identifier(&sequence.name));
        let further = if sequence.increment < 0 { "<" } else { ">" };
        statements.push_str(&format!(
            "alter sequence {name} no cycle;
             select setval({}, {value}, {is_called}) from {name}
             where {next} {further} last_value::numeric + case when is_called then {} else 0 end;",
            literal(&name),
            sequence.increment,
            value = sequence.value,
            is_called = sequence.is_called,
            next = sequence.next(),
        ));
    }
    statements.push_str("commit");
    statements
}

fn held_up(error: tokio_postgres::Error) -> Problem {
    if error.code() == Some(&tokio_postgres::error::SqlState::LOCK_NOT_AVAILABLE) {
        return Problem::new(Code::Unavailable, "Other tenants hold a sequence of the shared tables.")
            .retry_after(1)
            .caused_by(Discreet::from(error));
    }
    db(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sequence(name: &str, value: i64, is_called: bool) -> Sequence {
        let name = name.to_owned();
        Sequence { name, increment: 1, min: 1, max: 1000, cycles: false, value, is_called }
    }

    fn names(source: &[Sequence], target: &[Sequence], is_shared: bool) -> Vec<(String, i64, bool)> {
        let todo = to_move(source, target, is_shared).unwrap();
        todo.into_iter().map(|sequence| (sequence.name, sequence.value, sequence.is_called)).collect()
    }

    #[test]
    fn only_what_is_behind_is_moved() {
        let source = [sequence("a", 7, true), sequence("b", 7, true), sequence("c", 1, false)];
        let target = [sequence("b", 8, false), sequence("a", 7, false), sequence("c", 1, false)];
        assert_eq!(names(&source, &target, true), [("a".to_owned(), 7, true)]);
        assert_eq!(names(&source, &target, false), [("a".to_owned(), 7, true)]);
        let down = |value| [Sequence { increment: -1, ..sequence("d", value, true) }];
        assert_eq!(names(&down(5), &down(9), true), [("d".to_owned(), 5, true)]);
        assert_eq!(names(&down(9), &down(5), true), []);
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let narrow = [Sequence { max: 100, ..sequence("a", 1, false) }];
        let round = [Sequence { cycles: true, ..sequence("a", 9, true) }];
        for (source, target, is_shared) in [
            (vec![sequence("a", 7, true)], vec![], false),
            (vec![sequence("a", 700, true)], narrow.to_vec(), false),
            (round.to_vec(), round.to_vec(), true),
        ] {
            let problem = to_move(&source, &target, is_shared).unwrap_err();
            assert_eq!(problem.code(), Code::MoveBlocked);
            assert!(problem.detail().contains("sequence a "), "{}", problem.detail());
        }
        assert_eq!(names(&round, &[Sequence { cycles: true, ..sequence("a", 12, true) }], false).len(), 1);
    }

    #[test]
    fn going_ahead_stops_at_the_end() {
        assert_eq!(sequence("a", 7, true).ahead(100).value, 107);
        assert_eq!(sequence("a", 950, true).ahead(100).value, 1000);
    }
}
