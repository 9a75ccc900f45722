//! `SELECT setval('sequence', number)` in a version, as tools write it behind
//! rows with ids of their own. All tenants of a pool draw from the sequence, so
//! that there it is set by its owner, and only ever forward.

use pg_query::protobuf::{FuncCall, MinMaxOp, SelectStmt, a_const::Val};
use pg_query::{Node, NodeEnum};

use super::ast::{json, last_name, literal, quoted};
use super::{Rewriter, Runs};
use crate::facts::Facts;
use crate::refusal::RefusalKind;

impl Rewriter<'_> {
    /// Takes the statement where it sets sequences to numbers, and does nothing
    /// else.
    pub(super) fn take_setval(&mut self, statement: &NodeEnum) -> bool {
        let NodeEnum::SelectStmt(select) = statement else { return false };
        let Some(calls) = setvals(select) else { return false };
        let Some(forwarded) = calls.iter().map(|call| self.forward(call)).collect::<Option<Vec<_>>>() else {
            return false;
        };
        for (call, forwarded) in calls.iter().zip(forwarded) {
            match forwarded {
                Ok(sql) => self.emit(sql, Runs::Owner),
                Err(reason) => self.refuse(call.location, RefusalKind::UnknownObject, reason),
            }
        }
        true
    }

    /// The statement that moves a sequence forward.
    fn forward(&self, call: &FuncCall) -> Option<Result<String, String>> {
        let sequence = self.sequence_of(call.args.first()?)?;
        let value = call.args.get(1)?;
        let number = number(value).or_else(|| number_caught_up_with(value))?;
        let is_called = match call.args.get(2) {
            Some(flag) => boolean(flag)?,
            None => true,
        };
        if !self.model.sequences.contains_key(&sequence) {
            return Some(Err(format!("the app schema has no sequence {sequence}")));
        }
        let name = quoted(&sequence);
        let text = literal(&name);
        Some(Ok(format!(
            "SELECT pg_catalog.setval({text}, {number}, {is_called}) \
             FROM {name} s JOIN pg_catalog.pg_sequence q ON q.seqrelid = {text}::pg_catalog.regclass \
             WHERE CASE WHEN s.last_value = {number} THEN {is_called} AND NOT s.is_called \
             WHEN q.seqincrement > 0 THEN s.last_value < {number} ELSE s.last_value > {number} END"
        )))
    }

    /// The sequence that an argument names: `'s'`, `'s'::regclass`, or
    /// `pg_get_serial_sequence('t', 'c')`.
    fn sequence_of(&self, argument: &Node) -> Option<String> {
        if let Some(text) = text_constant(argument) {
            return Some(identifier(text));
        }
        let NodeEnum::FuncCall(call) = argument.node.as_ref()? else { return None };
        if last_name(&call.funcname) != "pg_get_serial_sequence" || call.args.len() != 2 {
            return None;
        }
        let owner = (identifier(text_constant(&call.args[0])?), text_constant(&call.args[1])?.to_owned());
        let mut owned = self.model.sequences.iter().filter(|(_, owned)| owned.as_ref() == Some(&owner));
        owned.next().map(|(name, _)| name.clone())
    }
}

/// The calls of a `SELECT` that only calls `setval`.
fn setvals(select: &SelectStmt) -> Option<Vec<&FuncCall>> {
    let is_bare = select.from_clause.is_empty()
        && select.where_clause.is_none()
        && select.into_clause.is_none()
        && select.with_clause.is_none()
        && select.larg.is_none()
        && select.values_lists.is_empty();
    if !is_bare || select.target_list.is_empty() {
        return None;
    }
    let call = |node| match node {
        &Node { node: Some(NodeEnum::ResTarget(ref target)) } => match target.val.as_ref()?.node.as_ref()? {
            NodeEnum::FuncCall(call) if last_name(&call.funcname) == "setval" => Some(&**call),
            _ => None,
        },
        _ => None,
    };
    select.target_list.iter().map(call).collect()
}

fn constant(node: &Node) -> Option<&Val> {
    match node.node.as_ref()? {
        NodeEnum::AConst(constant) => constant.val.as_ref(),
        NodeEnum::TypeCast(cast) => constant(cast.arg.as_ref()?),
        _ => None,
    }
}

fn text_constant(node: &Node) -> Option<&str> {
    match constant(node)? {
        Val::Sval(text) => Some(&text.sval),
        _ => None,
    }
}

fn number(node: &Node) -> Option<i64> {
    match constant(node)? {
        Val::Ival(number) => Some(number.ival.into()),
        Val::Fval(number) => number.fval.parse().ok(),
        Val::Sval(text) => text.sval.parse().ok(),
        _ => None,
    }
}

/// The number of `GREATEST((SELECT last_value FROM s), 57)`, as captures write it.
fn number_caught_up_with(node: &Node) -> Option<i64> {
    let NodeEnum::MinMaxExpr(expr) = node.node.as_ref()? else { return None };
    let [before, value] = expr.args.as_slice() else { return None };
    let before = Facts::of(&json(before));
    let reads_one = before.relations.len() == 1 && before.functions.is_empty();
    (expr.op == MinMaxOp::IsGreatest as i32 && reads_one).then(|| number(value)).flatten()
}

fn boolean(node: &Node) -> Option<bool> {
    match constant(node)? {
        Val::Boolval(flag) => Some(flag.boolval),
        Val::Sval(text) => match text.sval.as_str() {
            "t" | "true" => Some(true),
            "f" | "false" => Some(false),
            _ => None,
        },
        _ => None,
    }
}

/// A name as PostgreSQL reads it from text: in lower case, unless quoted.
fn identifier(text: &str) -> String {
    match text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        Some(inner) => inner.replace("\"\"", "\""),
        None => text.to_ascii_lowercase(),
    }
}
