//! Prepared statements of sessions that change their backends. A session's
//! names are its own; on a backend a statement has a name that stands for its
//! text and its parameters' types in all sessions of this front. A backend that
//! does not have it yet is given it before it is used.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use bytes::{Bytes, BytesMut};
use insula_pg_wire::NulInText;
use insula_pg_wire::frontend::Parse;
use insula_session_sql::Effects;

/// Statements that a backend keeps. The one that was not used for the longest
/// time goes for a new one.
const KEPT_MAX: usize = 500;

/// The name of a statement that no backend has.
pub(crate) const NONE: &[u8] = b"insula_none";

/// A statement as clients prepare it.
#[derive(Debug)]
pub(crate) struct Statement {
    number: u64,
    name: String,
    content: Content,
    /// What it leaves behind in a session when it runs.
    pub effects: Effects,
}

/// A statement's text, and the types of its parameters as they stand in
/// `Parse`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Content {
    text: Bytes,
    types: Bytes,
}

impl Statement {
    /// Its name on backends. Numbers are never given twice, so that no two
    /// statements can be taken for each other.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Writes its `Parse`.
    pub fn put_parse(&self, out: &mut BytesMut) -> Result<(), NulInText> {
        Parse { name: self.name.as_bytes(), query: &self.content.text, parameter_types: &self.content.types }
            .put(out)
    }

    /// Bytes of memory for its text.
    pub fn bytes(&self) -> usize {
        self.content.text.len() + self.content.types.len()
    }
}

fn name_of(number: u64) -> String {
    format!("insula_{number}")
}

/// The statements of all sessions, each once.
#[derive(Debug, Default)]
pub(crate) struct Statements {
    known: Mutex<HashMap<Content, Weak<Statement>>>,
    next: AtomicU64,
}

impl Statements {
    /// The statement with this text, known or new.
    pub fn get(&self, parse: &Parse<'_>) -> Arc<Statement> {
        let copied = Bytes::copy_from_slice;
        let content = Content { text: copied(parse.query), types: copied(parse.parameter_types) };
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(statement) = known.get(&content).and_then(Weak::upgrade) {
            return statement;
        }
        if known.len() == known.capacity() {
            // Before it grows: those that nobody has any more.
            known.retain(|_, statement| statement.strong_count() > 0);
        }
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let effects = insula_session_sql::effects(parse.query);
        let statement =
            Arc::new(Statement { number, name: name_of(number), content: content.clone(), effects });
        known.insert(content, Arc::downgrade(&statement));
        statement
    }
}

/// The statements that a backend has.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    /// When each was used last, by its number.
    used: HashMap<u64, u64>,
    by_use: BTreeMap<u64, u64>,
    clock: u64,
}

impl Kept {
    /// Whether the backend has it; it is being used.
    pub fn uses(&mut self, statement: &Statement) -> bool {
        let Some(used) = self.used.get_mut(&statement.number) else { return false };
        self.clock += 1;
        self.by_use.remove(used);
        *used = self.clock;
        self.by_use.insert(self.clock, statement.number);
        true
    }

    /// The backend is given it; the name of the one that has to go for it.
    pub fn add(&mut self, statement: &Statement) -> Option<String> {
        self.clock += 1;
        self.used.insert(statement.number, self.clock);
        self.by_use.insert(self.clock, statement.number);
        if self.used.len() <= KEPT_MAX {
            return None;
        }
        let (_, number) = self.by_use.pop_first()?;
        self.used.remove(&number);
        Some(name_of(number))
    }

    /// The backend does not have it after all.
    pub fn remove(&mut self, statement: &Statement) {
        if let Some(used) = self.used.remove(&statement.number) {
            self.by_use.remove(&used);
        }
    }

    /// The backend has none any more.
    pub fn clear(&mut self) {
        self.used.clear();
        self.by_use.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(query: &[u8]) -> Parse<'_> {
        Parse { name: b"s", query, parameter_types: b"\0\0" }
    }

    #[test]
    fn one_text_has_one_name_and_another_never_the_same() {
        let statements = Statements::default();
        let one = statements.get(&parse(b"select 1"));
        assert_eq!(statements.get(&parse(b"select 1")).name(), one.name());
        let typed = Parse { parameter_types: b"\0\x01\0\0\0\x17", ..parse(b"select 1") };
        assert_ne!(statements.get(&typed).name(), one.name());
        let first = one.name().to_owned();
        drop(one);
        assert_ne!(statements.get(&parse(b"select 1")).name(), first, "no number comes back");
        for number in 0..10_000 {
            statements.get(&parse(format!("select {number}").as_bytes()));
        }
        let known = statements.known.lock().unwrap().len();
        assert!(known < 1000, "{known} statements that nobody has");
    }

    #[test]
    fn a_backend_keeps_the_ones_that_are_used() {
        let (statements, mut kept) = (Statements::default(), Kept::default());
        let all: Vec<_> =
            (0..=KEPT_MAX).map(|number| statements.get(&parse(format!("{number}").as_bytes()))).collect();
        for statement in &all[..KEPT_MAX] {
            assert!(!kept.uses(statement) && kept.add(statement).is_none());
        }
        assert!(kept.uses(&all[0]));
        assert_eq!(
            kept.add(&all[KEPT_MAX]),
            Some(all[1].name().to_owned()),
            "not the first, which was used since"
        );
        assert!(kept.uses(&all[0]) && !kept.uses(&all[1]));
        kept.remove(&all[0]);
        assert!(!kept.uses(&all[0]) && kept.used.len() == kept.by_use.len());
        kept.clear();
        assert!(!kept.uses(&all[2]) && kept.by_use.is_empty());
    }
}
