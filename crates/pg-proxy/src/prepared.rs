//! Prepared statements of sessions that change their backends. A session's
//! names are its own; on a backend a statement has a name that stands for its
//! text and its parameters' types in all sessions of this front. A backend that
//! does not have it yet is given it before it is used.
//!
//! Drivers ask once what a statement takes and gives, and then read rows by it.
//! A statement that is made anew may give something else, which PostgreSQL would
//! refuse on a connection of one's own ("cached plan must not change result
//! type"). So it is noted what a client was told, and compared with what a
//! backend's statement gives before it runs there.

use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bytes::{Bytes, BytesMut};
use insula_pg_wire::backend::parse_row_description;
use insula_pg_wire::frontend::Parse;
use insula_pg_wire::{NulInText, WireError};
use insula_session_sql::Effects;

/// Statements that a backend keeps. The one that was not used for the longest
/// time goes for a new one.
const KEPT_MAX: usize = 500;

/// The name of a statement that no backend has.
pub(crate) const NONE: &[u8] = b"insula_none";

/// The same, in place of one that gives something else than its client was told.
pub(crate) const OUTDATED: &[u8] = b"insula_outdated";

/// What a statement takes and gives, by its description: the types of its
/// parameters, and the names and types of its columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shape {
    /// Not in the description of a portal.
    parameters: Option<u64>,
    rows: u64,
}

impl Shape {
    /// From the bodies of `ParameterDescription`, where there was one, and of
    /// `RowDescription`, which is empty in place of a `NoData`.
    pub fn new(parameters: Option<&[u8]>, rows: &[u8]) -> Result<Self, WireError> {
        let hashed = |hash: &dyn Fn(&mut DefaultHasher)| {
            let mut hasher = DefaultHasher::new();
            hash(&mut hasher);
            hasher.finish()
        };
        let columns = if rows.is_empty() { None } else { Some(parse_row_description(rows)?) };
        Ok(Self {
            parameters: parameters.map(|parameters| hashed(&|hasher| hasher.write(parameters))),
            rows: hashed(&|hasher| columns.hash(hasher)),
        })
    }

    /// Whether it is what a client was told.
    pub fn fits(self, told: Self) -> bool {
        self.rows == told.rows && (told.parameters.is_none() || told.parameters == self.parameters)
    }

    /// What is known now, and was before.
    pub fn or(self, before: Option<Self>) -> Self {
        let same = before.filter(|before| before.rows == self.rows);
        Self { parameters: self.parameters.or(same.and_then(|same| same.parameters)), ..self }
    }
}

/// A statement as clients prepare it.
#[derive(Debug)]
pub(crate) struct Statement {
    number: u64,
    name: String,
    content: Content,
    /// What it leaves behind in a session when it runs.
    pub effects: Effects,
}

/// The settings under which PostgreSQL reads a text: literals are made values when
/// a statement is prepared. `None` where they are not known just now.
pub(crate) type ReadUnder = Option<Bytes>;

/// A statement's text, the types of its parameters as they stand in `Parse`, and
/// the settings under which it is read.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Content {
    text: Bytes,
    types: Bytes,
    read_under: ReadUnder,
}

impl Content {
    fn of(parse: &Parse<'_>, read_under: ReadUnder) -> Self {
        let copied = Bytes::copy_from_slice;
        Self { text: copied(parse.query), types: copied(parse.parameter_types), read_under }
    }
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

    /// Whether a backend of a session with these settings may be given it, and
    /// others that share it with them. One that was read under unknown settings
    /// is its session's alone.
    pub fn fits(&self, read_under: &ReadUnder) -> bool {
        self.content.read_under.is_none() || self.content.read_under == *read_under
    }

    /// Writes the `Parse` of a client that calls it so.
    pub fn put_parse_as(&self, name: &[u8], out: &mut BytesMut) -> Result<(), NulInText> {
        Parse { name, query: &self.content.text, parameter_types: &self.content.types }.put(out)
    }

    /// The settings under which it is read.
    pub fn read_under(&self) -> ReadUnder {
        self.content.read_under.clone()
    }

    /// Bytes of memory for its text.
    pub fn bytes(&self) -> usize {
        self.content.text.len() + self.content.types.len()
    }
}

/// The name of an empty statement, to be taken away in the place of one that the
/// backend does not have.
pub(crate) const GONE: &[u8] = b"insula_gone";

/// With what their names on backends begin.
pub(crate) const PREFIX: &[u8] = b"insula_";

fn name_of(number: u64) -> String {
    format!("insula_{number}")
}

/// The statements of all sessions, each once.
#[derive(Debug, Default)]
pub(crate) struct Statements {
    /// Bytes of those that the sessions of one tenant may have; `None` is no bound.
    pub bytes_of_tenant: Option<u64>,
    known: Mutex<HashMap<Content, Weak<Statement>>>,
    next: AtomicU64,
}

impl Statements {
    /// Those of tenants whose sessions may have so many bytes of them together.
    pub fn bounded(bytes_of_tenant: u64) -> Self {
        Self { bytes_of_tenant: Some(bytes_of_tenant), ..Self::default() }
    }

    /// The statement with this text, where a session has it.
    pub fn find(&self, parse: &Parse<'_>, read_under: ReadUnder) -> Option<Arc<Statement>> {
        read_under.as_ref()?;
        self.lock().get(&Content::of(parse, read_under)).and_then(Weak::upgrade)
    }

    /// The statement with this text, known or new; a new one where it is not
    /// known how it is read.
    pub fn get(&self, parse: &Parse<'_>, read_under: ReadUnder) -> Arc<Statement> {
        let content = Content::of(parse, read_under);
        let is_shared = content.read_under.is_some();
        if is_shared && let Some(statement) = self.lock().get(&content).and_then(Weak::upgrade) {
            return statement;
        }
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        // A long text takes its time: not while others wait.
        let effects = insula_session_sql::effects(parse.query);
        let statement =
            Arc::new(Statement { number, name: name_of(number), content: content.clone(), effects });
        if !is_shared {
            return statement;
        }
        let mut known = self.lock();
        if let Some(other) = known.get(&content).and_then(Weak::upgrade) {
            return other;
        }
        if known.len() == known.capacity() {
            // Before it grows: those that nobody has any more. It has room for as
            // many again, so that this is not done for each.
            known.retain(|_, statement| statement.strong_count() > 0);
            let living = known.len();
            known.reserve(living);
        }
        known.insert(content, Arc::downgrade(&statement));
        statement
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Content, Weak<Statement>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A statement that a backend has.
#[derive(Debug, Clone, Copy)]
struct Use {
    /// When it was used last.
    at: u64,
    /// What it was seen to give there.
    shape: Option<Shape>,
}

/// A statement that a client has taken leave of: what it called it, and what it
/// was told that it gives.
#[derive(Debug, Clone)]
pub(crate) struct Gone {
    pub statement: Arc<Statement>,
    pub name: Bytes,
    pub told: Option<Shape>,
    /// The client's own `Parse`, where it was changed to fit where it goes.
    pub own: Bytes,
    /// The backend had it.
    pub on_backend: bool,
}

/// A statement that a backend is told to drop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Dropped(u64);

impl Dropped {
    /// Its name on backends.
    pub fn name(self) -> String {
        name_of(self.0)
    }

    /// Whether it is this one.
    pub fn is(self, statement: &Statement) -> bool {
        self.0 == statement.number
    }
}

/// The statements that a backend has.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    /// By their numbers.
    used: HashMap<u64, Use>,
    by_use: BTreeMap<u64, u64>,
    clock: u64,
}

impl Kept {
    /// Whether the backend has it; it is being used.
    pub fn uses(&mut self, statement: &Statement) -> bool {
        let Some(used) = self.used.get_mut(&statement.number) else { return false };
        self.clock += 1;
        self.by_use.remove(&used.at);
        used.at = self.clock;
        self.by_use.insert(self.clock, statement.number);
        true
    }

    /// The backend is given it; the one that has to go for it.
    pub fn add(&mut self, statement: &Statement) -> Option<Dropped> {
        self.holds(statement.number);
        if self.used.len() <= KEPT_MAX {
            return None;
        }
        let (_, number) = self.by_use.pop_first()?;
        self.used.remove(&number);
        Some(Dropped(number))
    }

    fn holds(&mut self, number: u64) {
        self.clock += 1;
        let replaced = self.used.insert(number, Use { at: self.clock, shape: None });
        if let Some(used) = replaced {
            self.by_use.remove(&used.at);
        }
        self.by_use.insert(self.clock, number);
    }

    /// The backend has it still.
    pub fn keeps(&mut self, dropped: Dropped) {
        self.holds(dropped.0);
    }

    /// The same of one that a client was to take away.
    pub fn keeps_still(&mut self, statement: &Statement) {
        self.holds(statement.number);
    }

    /// It is to go, to be given anew.
    pub fn gives_up(&mut self, statement: &Statement) -> Dropped {
        self.remove(statement);
        Dropped(statement.number)
    }

    /// The backend does not have it after all.
    pub fn remove(&mut self, statement: &Statement) {
        if let Some(used) = self.used.remove(&statement.number) {
            self.by_use.remove(&used.at);
        }
    }

    /// What the backend's statement gives, where that was seen.
    pub fn shape(&self, statement: &Statement) -> Option<Shape> {
        self.used.get(&statement.number)?.shape
    }

    /// The backend's statement was seen to give this.
    pub fn described(&mut self, statement: &Statement, shape: Shape) {
        if let Some(used) = self.used.get_mut(&statement.number) {
            used.shape = Some(shape.or(used.shape));
        }
    }

    /// Their names.
    #[cfg(any(test, feature = "fuzz"))]
    pub fn names(&self) -> std::collections::BTreeSet<Vec<u8>> {
        self.used.keys().map(|number| name_of(*number).into_bytes()).collect()
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

    const PLAIN: ReadUnder = Some(Bytes::new());

    #[test]
    fn what_is_read_otherwise_is_another_statement() {
        let (statements, text) = (Statements::default(), parse(b"select timestamptz '2026-01-01'"));
        let elsewhere = Some(Bytes::from_static(b"timezone=Asia/Tokyo\0"));
        let one = statements.get(&text, PLAIN);
        let other = statements.get(&text, elsewhere.clone());
        let (in_doubt, again) = (statements.get(&text, None), statements.get(&text, None));
        let names: std::collections::BTreeSet<&str> =
            [&one, &other, &in_doubt, &again].map(|statement| statement.name()).into();
        assert_eq!(names.len(), 4);
        assert!(one.fits(&PLAIN) && !one.fits(&elsewhere) && !one.fits(&None));
        assert!(in_doubt.fits(&PLAIN) && in_doubt.fits(&None), "nobody else has it");
    }

    #[test]
    fn one_text_has_one_name_and_another_never_the_same() {
        let statements = Statements::default();
        let one = statements.get(&parse(b"select 1"), PLAIN);
        assert_eq!(statements.get(&parse(b"select 1"), PLAIN).name(), one.name());
        let typed = Parse { parameter_types: b"\0\x01\0\0\0\x17", ..parse(b"select 1") };
        assert_ne!(statements.get(&typed, PLAIN).name(), one.name());
        let first = one.name().to_owned();
        drop(one);
        assert_ne!(statements.get(&parse(b"select 1"), PLAIN).name(), first, "no number comes back");
        for number in 0..10_000 {
            statements.get(&parse(format!("select {number}").as_bytes()), PLAIN);
        }
        let known = statements.known.lock().unwrap().len();
        assert!(known < 1000, "{known} statements that nobody has");
    }

    #[test]
    fn a_shape_is_that_of_types_and_names() {
        let row = |column: &[u8]| [&b"\0\x01x\0"[..], column].concat();
        let column =
            |table: u8, type_oid: u8| [0, 0, 0, table, 0, 1, 0, 0, 0, type_oid, 0, 4, 0, 0, 0, 0, 0, 0];
        let shape = |parameters: &[u8], rows: &[u8]| Shape::new(Some(parameters), rows).unwrap();
        let same = shape(b"\0\0", &row(&column(1, 23)));
        assert_eq!(shape(b"\0\0", &row(&column(2, 23))), same, "the same of another table");
        for other in [
            shape(b"\0\0", &row(&column(1, 20))),
            shape(b"\0\x01\0\0\0\x17", &row(&column(1, 23))),
            shape(b"\0\0", b"\0\0"),
            shape(b"\0\0", b""),
        ] {
            assert_ne!(other, same);
        }
        assert_ne!(shape(b"\0\0", b"\0\0"), shape(b"\0\0", b""), "no columns are not no rows");
        assert!(Shape::new(None, b"\0\x01x").is_err());
        // Who was told of the rows alone minds them alone.
        let rows = Shape::new(None, &row(&column(1, 23))).unwrap();
        assert!(same.fits(rows) && !rows.fits(same) && rows.or(Some(same)).fits(same));
        assert!(!shape(b"\0\0", b"").fits(rows) && !rows.or(Some(shape(b"\0\0", b""))).fits(same));
    }

    #[test]
    fn a_backend_keeps_the_ones_that_are_used() {
        let (statements, mut kept) = (Statements::default(), Kept::default());
        let all: Vec<_> = (0..=KEPT_MAX)
            .map(|number| statements.get(&parse(format!("{number}").as_bytes()), PLAIN))
            .collect();
        for statement in &all[..KEPT_MAX] {
            assert!(!kept.uses(statement) && kept.add(statement).is_none());
        }
        assert!(kept.uses(&all[0]));
        assert_eq!(
            kept.add(&all[KEPT_MAX]),
            Some(Dropped(all[1].number)),
            "not the first, which was used since"
        );
        assert!(kept.uses(&all[0]) && !kept.uses(&all[1]));
        let shape = Shape::new(None, b"").unwrap();
        kept.described(&all[0], shape);
        assert_eq!(
            (kept.shape(&all[0]), kept.shape(&all[1]), kept.shape(&all[2])),
            (Some(shape), None, None)
        );
        // What it was to drop and has not.
        let dropped = kept.gives_up(&all[0]);
        assert_eq!(dropped.name(), all[0].name());
        assert!(!kept.uses(&all[0]) && kept.add(&all[0]).is_none());
        kept.keeps(dropped);
        assert!(kept.shape(&all[0]).is_none() && kept.used.len() == kept.by_use.len());
        kept.remove(&all[0]);
        assert!(!kept.uses(&all[0]) && kept.used.len() == kept.by_use.len());
        kept.clear();
        assert!(!kept.uses(&all[2]) && kept.by_use.is_empty());
    }
}
