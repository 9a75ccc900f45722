//! One message of a client: its text, divided into statements, and for each of
//! them what goes into the version.

use std::collections::{BTreeSet, VecDeque};

use pg_query::NodeEnum;
use serde_json::Value;

use super::align::{Root, Taken, innermost_statement};
use super::normalise::{Normalised, normalise};
use super::rows::{self, RowsText};
use super::{Firing, Note, Recording, TOOL_SCHEMAS, Touched, What, parameters, settings, undone};
use crate::builtins::TABLE_FREE;
use crate::facts::{Facts, Name};
use crate::source::{Source, excerpt};
use crate::syntax::{Statement, statements};

/// A statement of the version.
#[derive(Debug)]
pub(super) struct Piece {
    /// Where it stands in the order of everything.
    pub(super) seq: i64,
    /// Its text, with the comments before it, without a semicolon.
    pub(super) text: String,
    /// How many rows are written out in it.
    pub(super) rows: usize,
    /// What it is about.
    pub(super) kind: PieceKind,
    /// Why it cannot be captured.
    pub(super) refused: Option<String>,
}

/// What a statement of the version is about.
#[derive(Debug)]
pub(super) enum PieceKind {
    /// Definitions.
    Definition,
    /// A statement that decides over rows, and may draw ids.
    Decision,
    /// A statement that changes rows, and draws no ids.
    Change,
    /// Rows that are written out, with the table, and where its sequences stood then.
    Rows(String, Vec<(String, i64)>),
}

/// What messages come to.
#[derive(Debug, Default)]
pub(super) struct Pieces {
    pub(super) pieces: Vec<Piece>,
    pub(super) notes: Vec<Note>,
    /// Tables into which rows were written out.
    pub(super) written: BTreeSet<String>,
    /// Tables into which statements insert.
    pub(super) inserted: BTreeSet<String>,
}

/// Reads one message.
pub(super) fn read(recording: &Recording<'_>, firings: &[&Firing], out: &mut Pieces) {
    let Some(first) = firings.first() else { return };
    let sql = &*first.text;
    if settings::reads_otherwise(&first.settings, sql) {
        let reason = "it was sent with standard_conforming_strings = off, and a backslash in it means another thing in a \
            version: send it with the setting on";
        out.refuse(first.seq, sql, reason.to_owned());
        return;
    }
    let statements = match statements(Source { file: recording.file, sql }) {
        Ok(statements) => statements,
        Err(refusal) => {
            out.refuse(first.seq, sql, format!("its text cannot be read: {}", refusal.reason));
            return;
        }
    };
    // What is rolled back was never recorded, and takes nothing of the others'.
    let stays = undone::that_stay(&statements);
    let behind = std::iter::once(0).chain(statements.iter().map(|statement| statement.end));
    let kept: Vec<_> = statements
        .iter()
        .zip(behind)
        .zip(stays)
        .filter_map(|((statement, behind), stays)| stays.then_some((statement, behind)))
        .collect();
    let roots: Vec<Root> =
        kept.iter().map(|(statement, _)| Root::of(statement, sql).learn(firings)).collect();
    let mut queue: VecDeque<&Firing> = firings.iter().copied().collect();
    for (index, ((statement, behind), root)) in kept.into_iter().zip(&roots).enumerate() {
        let taken = root.take(&roots[index + 1..], &mut queue);
        let settings = taken.own.first().or(taken.nested.first()).map_or("", |firing| &firing.settings);
        let comment = comment(&sql[behind..statement.start]);
        let reader = Reader { recording, sql, statement, comment, settings };
        reader.emit(root, &taken, out);
    }
    if let Some(left) = queue.front() {
        let reason = format!("what it did ({}) cannot be told from the statements of its text", left.tag);
        out.refuse(left.seq, sql, reason);
    }
}

impl Pieces {
    fn refuse(&mut self, seq: i64, text: &str, reason: String) {
        let text = text.trim().trim_end_matches(';').trim_end().to_owned();
        self.pieces.push(Piece { seq, text, rows: 0, kind: PieceKind::Decision, refused: Some(reason) });
    }

    fn note(&mut self, statement: &str, note: impl Into<String>) {
        let note = Note { statement: excerpt(statement), note: note.into() };
        if !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }
}

/// What stands between two statements, without the semicolon.
fn comment(gap: &str) -> &str {
    gap.trim_start().trim_start_matches(';').trim()
}

struct Reader<'a> {
    recording: &'a Recording<'a>,
    sql: &'a str,
    statement: &'a Statement,
    comment: &'a str,
    settings: &'a str,
}

impl Reader<'_> {
    fn text(&self) -> &str {
        self.statement.text(self.sql)
    }

    fn emit(&self, root: &Root, taken: &Taken<'_>, out: &mut Pieces) {
        match root {
            Root::Definition(_) => self.definition(taken, out),
            Root::Data(..) => self.data(taken, out),
            Root::Caller(functions) => self.caller(functions.is_none(), taken, out),
        }
    }

    fn definition(&self, taken: &Taken<'_>, out: &mut Pieces) {
        let Some(seq) = taken.own.first().map(|firing| firing.seq) else { return };
        if let Some(seq) = self.definition_is_ours(&taken.own, self.text(), out).then_some(seq) {
            self.push(seq, self.text(), &self.statement.node, PieceKind::Definition, out);
        }
    }

    /// Whether a definition is one of the app schema, and has changed something.
    fn definition_is_ours(&self, firings: &[&Firing], text: &str, out: &mut Pieces) -> bool {
        let touched: Vec<&Touched> = firings
            .iter()
            .flat_map(|firing| match &firing.what {
                What::Defined(touched) | What::Dropped(touched) => touched.as_slice(),
                What::Rows(_) => &[],
            })
            .collect();
        if touched.is_empty() {
            return false;
        }
        let schemas: Vec<&str> = touched.iter().filter_map(|touched| touched.schema.as_deref()).collect();
        if !schemas.is_empty() && schemas.iter().all(|schema| schema.starts_with("pg_temp")) {
            return false;
        }
        let named = touched.iter().filter_map(|touched| touched.identity.as_deref());
        if schemas.iter().chain(named.collect::<Vec<_>>().iter()).any(|name| TOOL_SCHEMAS.contains(name)) {
            out.note(text, "left out: a migration tool keeps its books there");
            return false;
        }
        if let Some(other) = schemas.iter().find(|schema| **schema != "public" && !schema.starts_with("pg_"))
        {
            let reason =
                format!("it is in the schema {other}, and an app schema is in one schema alone: public");
            let seq = firings.first().map_or(0, |firing| firing.seq);
            out.refuse(seq, text, reason);
            return false;
        }
        true
    }

    /// A statement, once it is known that it belongs into the version.
    fn push(&self, seq: i64, text: &str, node: &NodeEnum, kind: PieceKind, out: &mut Pieces) {
        match normalise(text, node, self.recording.role) {
            Normalised::LeftOut(why) => out.note(text, why),
            Normalised::Taken { sql, notes } => {
                for note in notes {
                    out.note(text, note);
                }
                if let Some(told) = settings::note(self.settings, text, node) {
                    out.note(text, told);
                }
                let text = if self.comment.is_empty() { sql } else { format!("{}\n{sql}", self.comment) };
                out.pieces.push(Piece { seq, text, rows: 0, kind, refused: None });
            }
        }
    }

    fn data(&self, taken: &Taken<'_>, out: &mut Pieces) {
        let Some(first) = taken.own.first().or(taken.nested.first()) else { return };
        let own: Vec<_> = taken
            .own
            .iter()
            .filter_map(|firing| match &firing.what {
                What::Rows(rows) => Some((*firing, rows)),
                _ => None,
            })
            .filter(|(_, rows)| !self.recording.without_data.contains(&rows.table))
            .collect();
        if own.is_empty() && !taken.own.is_empty() {
            return;
        }
        if own.iter().any(|(_, rows)| TOOL_SCHEMAS.contains(&rows.schema.as_str())) {
            out.note(self.text(), "left out: a migration tool keeps its books there");
            return;
        }
        if let Some((firing, rows)) = own.iter().find(|(_, rows)| rows.schema != "public") {
            let reason =
                format!("it changes {}.{}, and an app schema is in public alone", rows.schema, rows.table);
            out.refuse(firing.seq, self.text(), reason);
            return;
        }
        let by_row = is_by_row(self.statement);
        let inserted =
            own.iter().filter(|(firing, _)| firing.tag == "INSERT").map(|(_, rows)| rows.table.clone());
        if by_row {
            out.written.extend(inserted)
        } else {
            out.inserted.extend(inserted)
        }
        if !by_row {
            let draws = own.iter().any(|(firing, _)| firing.tag == "INSERT") || !taken.nested.is_empty();
            let kind = if draws { PieceKind::Decision } else { PieceKind::Change };
            self.push(first.seq, self.text(), &self.statement.node, kind, out);
            return;
        }
        let changes: Vec<_> = own.iter().map(|(firing, rows)| (firing.tag.as_str(), *rows)).collect();
        if let Some(told) =
            parameters::note(&self.statement.node, inserts_constants(self.statement), &changes)
        {
            out.note(self.text(), told);
        }
        let skips_conflicts = has_key(&self.statement.json, "on_conflict_clause");
        for (firing, changed) in own {
            let stood = changed.sequences.iter().flatten().filter(|_| firing.tag == "INSERT");
            let stood: Vec<_> = stood.filter_map(|(name, value)| Some((name.clone(), (*value)?))).collect();
            match rows::write(&firing.tag, changed, skips_conflicts) {
                Ok(written) => out.pieces.extend(written.into_iter().map(|RowsText { sql, rows }| Piece {
                    seq: firing.seq,
                    text: sql,
                    rows,
                    kind: PieceKind::Rows(changed.table.clone(), stood.clone()),
                    refused: None,
                })),
                Err(reason) => out.refuse(firing.seq, self.text(), reason),
            }
        }
    }

    /// A statement that runs code: what it defines is written out, what it does
    /// with rows is left to the statement itself.
    fn caller(&self, is_do: bool, taken: &Taken<'_>, out: &mut Pieces) {
        let Some(first) = taken.nested.first() else { return };
        let is_rows = |firing: &&&Firing| matches!(firing.what, What::Rows(_));
        let changes_rows = taken.nested.iter().any(|firing| is_rows(&firing));
        let defines = taken.nested.iter().any(|firing| !is_rows(&firing));
        if !defines && !is_do {
            self.push(first.seq, self.text(), &self.statement.node, PieceKind::Decision, out);
            return;
        }
        if changes_rows {
            let reason = if is_do {
                "a DO block that changes rows has decided by the blueprint's rows alone: write its statements out, \
                 or make a function and call it"
            } else {
                "it both defines things and changes rows: do the one and the other apart"
            };
            out.refuse(first.seq, self.text(), reason.to_owned());
            return;
        }
        self.unroll(taken, out);
    }

    /// Writes out the definitions that a function or `DO` block has made.
    fn unroll(&self, taken: &Taken<'_>, out: &mut Pieces) {
        let mut pending: Vec<&Firing> = Vec::new();
        for firing in &taken.nested {
            pending.push(firing);
            if matches!(firing.what, What::Dropped(_)) {
                continue;
            }
            let own = std::mem::take(&mut pending);
            let Some(text) = innermost_statement(&firing.context) else {
                let reason = format!(
                    "a function did {} in it, and PostgreSQL does not tell by which text: write the statement out",
                    firing.tag
                );
                out.refuse(firing.seq, self.text(), reason);
                return;
            };
            let parsed = statements(Source { file: "", sql: text }).unwrap_or_default();
            let [statement] = parsed.as_slice() else { continue };
            if self.definition_is_ours(&own, text, out) {
                let settings = &firing.settings;
                let reader =
                    Reader { recording: self.recording, sql: text, statement, comment: "", settings };
                reader.push(firing.seq, reader.text(), &statement.node, PieceKind::Definition, out);
                out.note(self.text(), "what it has defined is written out");
            }
        }
    }
}

/// Whether a data statement is captured as the rows that it has changed.
fn is_by_row(statement: &Statement) -> bool {
    let has_parameters = has_key(&statement.json, "ParamRef");
    match &statement.node {
        NodeEnum::CopyStmt(_) | NodeEnum::ExecuteStmt(_) => true,
        NodeEnum::InsertStmt(insert) => {
            let is_constant = inserts_constants(statement);
            let decides = insert.on_conflict_clause.is_some()
                || insert.with_clause.is_some()
                || has_key(&statement.json["InsertStmt"]["select_stmt"], "SubLink");
            has_parameters || is_constant && !decides
        }
        _ => has_parameters,
    }
}

/// Whether an `INSERT` makes the same rows everywhere, but for its parameters.
fn inserts_constants(statement: &Statement) -> bool {
    let NodeEnum::InsertStmt(insert) = &statement.node else { return false };
    match insert.select_stmt.as_ref().and_then(|select| select.node.as_ref()) {
        None => true,
        Some(NodeEnum::SelectStmt(select)) if !select.values_lists.is_empty() => true,
        // As in SELECT * FROM unnest('{1,2}'::int[]).
        Some(_) => reads_nothing(&statement.json["InsertStmt"]["select_stmt"]),
    }
}

/// Whether a query makes the same rows everywhere: it reads no table, and calls
/// nothing that could.
fn reads_nothing(query: &Value) -> bool {
    let facts = Facts::of(query);
    let is_known =
        |name: &Name| name.schema.is_none() && TABLE_FREE.binary_search(&name.name.as_str()).is_ok();
    facts.relations.is_empty() && facts.functions.iter().all(is_known)
}

/// Whether a tree has something under a key, at any level.
fn has_key(value: &Value, wanted: &str) -> bool {
    match value {
        Value::Array(items) => items.iter().any(|item| has_key(item, wanted)),
        Value::Object(object) => {
            object.iter().any(|(key, below)| key == wanted && !below.is_null() || has_key(below, wanted))
        }
        _ => false,
    }
}
