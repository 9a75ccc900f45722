//! Which of the things that were recorded belong to which statement of a
//! message. PostgreSQL runs the statements of a text in their order, so the
//! order decides; kinds, tables and callers tell where one ends.

use std::collections::{BTreeSet, VecDeque};

use pg_query::NodeEnum;
use serde_json::Value;

use super::{Firing, What};
use crate::facts::Facts;
use crate::syntax::{Statement, offset, tokens_of};

/// What was recorded for one statement.
#[derive(Debug, Default)]
pub(super) struct Taken<'a> {
    /// Of the statement itself.
    pub(super) own: Vec<&'a Firing>,
    /// Of what functions, `DO` blocks and triggers did below it.
    pub(super) nested: Vec<&'a Firing>,
}

/// How a statement changes rows of tables that it does not name. The recorder
/// knows the table below a view, and not the view.
pub(super) type ByView = BTreeSet<&'static str>;

/// What a statement is, as far as the recorder can see it.
#[derive(Debug)]
pub(super) enum Root {
    /// It may change definitions; with the words of its text.
    Definition(Vec<String>),
    /// It changes rows: how, and of which tables.
    Data(BTreeSet<(&'static str, String)>, ByView),
    /// It runs code, with the functions that it calls; none for `DO`.
    Caller(Option<BTreeSet<String>>),
}

impl Root {
    pub(super) fn of(statement: &Statement, sql: &str) -> Self {
        match &statement.node {
            NodeEnum::DoStmt(_) => return Self::Caller(None),
            NodeEnum::SelectStmt(select) if select.into_clause.is_some() => {}
            NodeEnum::InsertStmt(_)
            | NodeEnum::UpdateStmt(_)
            | NodeEnum::DeleteStmt(_)
            | NodeEnum::MergeStmt(_)
            | NodeEnum::SelectStmt(_)
            | NodeEnum::CopyStmt(_)
            | NodeEnum::TruncateStmt(_)
            | NodeEnum::CallStmt(_)
            | NodeEnum::ExecuteStmt(_)
            | NodeEnum::ExplainStmt(_) => {
                let mut targets = BTreeSet::new();
                collect_targets(&statement.json, &mut targets);
                if targets.is_empty() && !matches!(statement.node, NodeEnum::ExecuteStmt(_)) {
                    let calls = Facts::of(&statement.json).functions.into_iter().map(|call| call.name);
                    return Self::Caller(Some(calls.collect()));
                }
                return Self::Data(targets, ByView::new());
            }
            _ => {}
        }
        let words = tokens_of(statement.text(sql));
        let text = statement.text(sql);
        let word = |token: &pg_query::protobuf::ScanToken| {
            text.get(offset(token.start)..offset(token.end)).unwrap_or_default().to_ascii_uppercase()
        };
        Self::Definition(words.iter().map(word).collect())
    }

    /// Learns from all that was recorded for the text which of its targets were
    /// views: a table that is named is recorded, also where no row was changed.
    pub(super) fn learn(mut self, firings: &[&Firing]) -> Self {
        let is_recorded = |kind: &str, table: &str| {
            firings.iter().any(|firing| {
                !is_nested(firing)
                    && firing.tag == kind
                    && matches!(&firing.what, What::Rows(rows) if rows.table == table)
            })
        };
        if let Self::Data(targets, by_view) = &mut self {
            let views = targets.iter().filter(|(kind, table)| !is_recorded(kind, table));
            by_view.extend(views.map(|(kind, _)| *kind));
        }
        self
    }

    fn changes_by_view(&self, firing: &Firing) -> bool {
        matches!(self, Self::Data(_, by_view) if by_view.contains(firing.tag.as_str()))
    }

    /// Whether a definition could have this tag.
    fn has_tag(&self, tag: &str) -> bool {
        let Self::Definition(words) = self else { return false };
        let mut rest = words.iter();
        tag.split(' ').all(|part| rest.any(|word| word == part))
    }

    fn changes(&self, firing: &Firing) -> bool {
        match (self, &firing.what) {
            (Self::Data(targets, _), What::Rows(rows)) => {
                // What EXECUTE runs is not in its text.
                targets.is_empty()
                    || targets.iter().any(|(kind, table)| *kind == firing.tag && *table == rows.table)
            }
            _ => false,
        }
    }

    fn calls(&self, firing: &Firing) -> bool {
        let Self::Caller(functions) = self else { return false };
        match (functions, outermost(&firing.context)) {
            (None, caller) => caller == Some("inline_code_block"),
            (Some(_), None) => true,
            (Some(functions), Some(caller)) => functions.contains(caller),
        }
    }

    /// Takes what belongs to this statement from the front of the queue.
    /// `later` are the statements after it.
    pub(super) fn take<'a>(&self, later: &[Self], queue: &mut VecDeque<&'a Firing>) -> Taken<'a> {
        match self {
            Self::Definition(_) => self.take_definition(queue),
            Self::Data(..) => self.take_data(later, queue),
            Self::Caller(_) => {
                let mut taken = Taken::default();
                while let Some(firing) = queue.pop_front_if(|firing| is_nested(firing) && self.calls(firing))
                {
                    taken.nested.push(firing);
                }
                taken
            }
        }
    }

    fn take_definition<'a>(&self, queue: &mut VecDeque<&'a Firing>) -> Taken<'a> {
        let mut taken = Taken::default();
        let first = queue.iter().position(|firing| !is_nested(firing));
        let Some(first) =
            first.filter(|first| is_definition(queue[*first]) && self.has_tag(&queue[*first].tag))
        else {
            return taken;
        };
        taken.nested.extend(queue.drain(..first));
        while let Some(firing) = queue.pop_front_if(|firing| !is_nested(firing) && self.has_tag(&firing.tag))
        {
            taken.own.push(firing);
            if matches!(firing.what, What::Defined(_)) {
                break;
            }
        }
        taken
    }

    fn take_data<'a>(&self, later: &[Self], queue: &mut VecDeque<&'a Firing>) -> Taken<'a> {
        let mut taken = Taken::default();
        let mut seen = BTreeSet::new();
        while let Some(firing) = queue.front().copied() {
            if is_nested(firing) {
                if later.iter().any(|other| other.calls(firing)) {
                    break;
                }
                taken.nested.push(firing);
                queue.pop_front();
                continue;
            }
            let What::Rows(rows) = &firing.what else { break };
            let is_first = taken.own.is_empty();
            if self.changes(firing) && seen.insert((&firing.tag, &rows.table))
                || is_first && self.changes_by_view(firing)
            {
                taken.own.push(firing);
            } else if later.iter().any(|other| other.changes(firing) || other.changes_by_view(firing)) {
                break;
            } else if is_first {
                // By way of a rule.
                taken.own.push(firing);
            } else {
                // A foreign key's cascade: it happens again wherever the statement does.
                taken.nested.push(firing);
            }
            queue.pop_front();
        }
        taken
    }
}

fn is_nested(firing: &Firing) -> bool {
    !firing.context.is_empty()
}

fn is_definition(firing: &Firing) -> bool {
    !matches!(firing.what, What::Rows(_))
}

/// The function at the bottom of a context, as far as it can be told.
fn outermost(context: &str) -> Option<&str> {
    let line = context.lines().last()?;
    if let Some(rest) = line.strip_prefix("SQL function \"") {
        return rest.split('"').next();
    }
    let rest = line.strip_prefix("PL/pgSQL function ")?;
    let name = rest.split(['(', ' ']).next()?;
    Some(name.rsplit('.').next().unwrap_or(name).trim_matches('"'))
}

/// The text of the statement that a function or `DO` block has run, from the
/// innermost frame of a context; none where PostgreSQL does not tell it.
pub(super) fn innermost_statement(context: &str) -> Option<&str> {
    let rest = context.strip_prefix("SQL statement \"")?;
    let ends = rest.match_indices("\"\nPL/pgSQL function ").map(|(at, _)| at);
    ends.chain(rest.strip_suffix('"').map(str::len))
        .map(|end| &rest[..end])
        .find(|text| pg_query::parse(text, 0).is_ok())
}

fn collect_targets(value: &Value, targets: &mut BTreeSet<(&'static str, String)>) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| collect_targets(item, targets)),
        Value::Object(object) => {
            for (key, below) in object {
                let table = || below.get("relation")?.get("relname")?.as_str().map(str::to_owned);
                let mut add = |kind: &'static str| targets.extend(table().map(|table| (kind, table)));
                match key.as_str() {
                    "InsertStmt" => {
                        add("INSERT");
                        if below.get("on_conflict_clause").is_some_and(|clause| !clause.is_null()) {
                            add("UPDATE");
                        }
                    }
                    "UpdateStmt" => add("UPDATE"),
                    "DeleteStmt" => add("DELETE"),
                    "MergeStmt" => ["INSERT", "UPDATE", "DELETE"].into_iter().for_each(add),
                    "CopyStmt" if below.get("is_from").and_then(Value::as_bool) == Some(true) => {
                        add("INSERT")
                    }
                    "TruncateStmt" => {
                        let relations =
                            below.get("relations").and_then(Value::as_array).into_iter().flatten();
                        let names = relations.filter_map(|relation| {
                            relation.get("node")?.get("RangeVar")?.get("relname")?.as_str()
                        });
                        targets.extend(names.map(|name| ("TRUNCATE", name.to_owned())));
                    }
                    _ => {}
                }
                collect_targets(below, targets);
            }
        }
        _ => {}
    }
}
