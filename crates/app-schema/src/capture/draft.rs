//! The text of a version from its pieces.

use std::collections::{BTreeMap, BTreeSet};

use super::message::{self, Piece, PieceKind, Pieces};
use super::rows::identifier;
use super::{Draft, Firing, MAX_ROWS, Recording};
use crate::refusal::RefusalKind;
use crate::source::Source;

pub(super) fn draft(recording: &Recording<'_>) -> Draft {
    let mut pieces = Pieces::default();
    for firings in by_message(recording.firings) {
        message::read(recording, &firings, &mut pieces);
    }
    let Pieces { mut pieces, notes, written, inserted } = pieces;
    pieces.sort_by_key(|piece| piece.seq);
    let (mut pieces, reached) = catch_up_between(pieces);
    let last = pieces.last().map_or(0, |piece| piece.seq);
    // Ids that a captured statement draws, each tenant draws for itself.
    let moved = recording.sequences.iter().filter(|sequence| {
        let any_of = |tables: &BTreeSet<String>| sequence.tables.iter().any(|table| tables.contains(table));
        let left_out =
            !sequence.tables.is_empty() && sequence.tables.iter().all(|t| recording.without_data.contains(t));
        let is_there = reached.get(&sequence.name) == Some(&sequence.last_value);
        !left_out && !is_there && (any_of(&written) || !any_of(&inserted))
    });
    pieces.extend(moved.map(|sequence| catch_up(&sequence.name, sequence.last_value, last)));
    refuse_too_many_rows(&mut pieces);
    let mut sql = format!("-- {}\n", recording.header);
    let mut refused = Vec::new();
    for piece in &pieces {
        sql.push('\n');
        if let Some(reason) = &piece.refused {
            sql.push_str(&format!(
                "-- Not captured: {}\n",
                reason.split_whitespace().collect::<Vec<_>>().join(" ")
            ));
            refused.push((sql.len(), piece, reason));
        }
        sql.push_str(&piece.text);
        sql.push_str(";\n");
    }
    let source = Source { file: recording.file, sql: &sql };
    let refusal = |(at, piece, reason): (usize, &Piece, &String)| {
        source.refuse(&piece.text, at, RefusalKind::NotCaptured, reason.as_str())
    };
    let refusals = refused.into_iter().map(refusal).collect();
    Draft { statements: pieces.len(), notes, refusals, sql }
}

/// Everything of one message, in the order in which messages began.
fn by_message(firings: &[Firing]) -> Vec<Vec<&Firing>> {
    let mut messages: Vec<Vec<&Firing>> = Vec::new();
    let mut places = std::collections::HashMap::new();
    for firing in firings {
        let place = *places.entry(&firing.message).or_insert_with(|| {
            messages.push(Vec::new());
            messages.len() - 1
        });
        messages[place].push(firing);
    }
    messages
}

/// Brings sequences along before whatever may draw from them next, or changes
/// them: rows that are written out have their ids already. Returns how far each
/// was brought.
fn catch_up_between(pieces: Vec<Piece>) -> (Vec<Piece>, BTreeMap<String, i64>) {
    let mut behind: BTreeMap<String, (String, i64)> = BTreeMap::new();
    let mut reached = BTreeMap::new();
    let mut all = Vec::with_capacity(pieces.len());
    for piece in pieces {
        let is_needed = |(name, (table, _)): &(&String, &(String, i64))| match &piece.kind {
            PieceKind::Decision => true,
            PieceKind::Definition => [table, *name].iter().any(|name| piece.text.contains(name.as_str())),
            PieceKind::Change | PieceKind::Rows(..) => false,
        };
        let needed: Vec<String> = behind.iter().filter(is_needed).map(|(name, _)| name.clone()).collect();
        for name in needed {
            let Some((_, value)) = behind.remove(&name) else { continue };
            if reached.insert(name.clone(), value) != Some(value) {
                all.push(catch_up(&name, value, piece.seq));
            }
        }
        if let PieceKind::Rows(table, stood) = &piece.kind {
            let stood = stood.iter().map(|(name, value)| (name.clone(), (table.clone(), *value)));
            behind.extend(stood);
        }
        all.push(piece);
    }
    (all, reached)
}

/// Brings a sequence at least to where it stood in the blueprint. It never goes
/// back: a tenant may be further.
fn catch_up(name: &str, value: i64, seq: i64) -> Piece {
    let name = identifier(name);
    let text = format!(
        "SELECT setval('{}', GREATEST((SELECT last_value FROM {name}), {value}))",
        name.replace('\'', "''")
    );
    Piece { seq, text, rows: 0, kind: PieceKind::Definition, refused: None }
}

fn refuse_too_many_rows(pieces: &mut [Piece]) {
    let mut rows = 0;
    for piece in pieces {
        let before = rows;
        rows += piece.rows;
        if before <= MAX_ROWS && rows > MAX_ROWS {
            piece.refused = Some(format!(
                "there are more than {MAX_ROWS} rows in this capture: load data apart, and capture with \
                 --without-data TABLE"
            ));
        }
    }
}
