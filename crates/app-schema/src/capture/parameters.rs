//! Statements with parameters decide by values that nobody tells the recorder.
//! They are captured as the rows that they changed in the blueprint, and where
//! that is less than they would do to a tenant's rows, the developer is told.

use std::collections::BTreeSet;

use pg_query::protobuf::{AExprKind, BoolExprType};
use pg_query::{Node, NodeEnum};

use super::ChangedRows;
use crate::names::text_of;

const LEFT_OUT: &str = "left out: it has parameters, whose values are not known, and it changed no row of the blueprint. \
    Where it is to change tenants' rows, send it with the values in its text";
const AS_ROWS: &str = "captured as the rows of the blueprint that it changed, as the values of its parameters are not \
    known: other rows of tenants stay as they are. Where it is to decide over them, send it with the values in its text";

/// What is to be told of a statement that is captured by row, and has changed
/// these rows, each with its tag. `is_constant` says that what it inserts is
/// the same everywhere.
pub(super) fn note(
    node: &NodeEnum,
    is_constant: bool,
    changed: &[(&str, &ChangedRows)],
) -> Option<&'static str> {
    let is_insert = match node {
        NodeEnum::CopyStmt(_) => true,
        NodeEnum::InsertStmt(_) => is_constant,
        // What is prepared is not in the text: rows that it has inserted are
        // mostly constants.
        NodeEnum::ExecuteStmt(_) => changed.iter().any(|(tag, rows)| *tag == "INSERT" && rows.count > 0),
        _ => false,
    };
    if is_insert || changed.is_empty() {
        return None;
    }
    if changed.iter().all(|(_, rows)| rows.count == 0) {
        return Some(LEFT_OUT);
    }
    let names_its_rows = |rows: &ChangedRows| {
        rows.key.as_ref().is_some_and(|key| {
            let named = named_by(node);
            key.iter().all(|column| named.contains(column))
        })
    };
    (!changed.iter().filter(|(_, rows)| rows.count > 0).all(|(_, rows)| names_its_rows(rows)))
        .then_some(AS_ROWS)
}

/// The columns that the condition of an `UPDATE` or `DELETE` holds equal to
/// something.
fn named_by(node: &NodeEnum) -> BTreeSet<String> {
    let mut named = BTreeSet::new();
    let condition = match node {
        NodeEnum::UpdateStmt(update) if update.from_clause.is_empty() => update.where_clause.as_deref(),
        NodeEnum::DeleteStmt(delete) if delete.using_clause.is_empty() => delete.where_clause.as_deref(),
        _ => None,
    };
    note_equal(condition, &mut named);
    named
}

fn note_equal(condition: Option<&Node>, named: &mut BTreeSet<String>) {
    match condition.and_then(|node| node.node.as_ref()) {
        Some(NodeEnum::BoolExpr(both)) if both.boolop == BoolExprType::AndExpr as i32 => {
            both.args.iter().for_each(|part| note_equal(Some(part), named));
        }
        Some(NodeEnum::AExpr(equal))
            if equal.kind == AExprKind::AexprOp as i32
                && equal.name.last().and_then(text_of).as_deref() == Some("=") =>
        {
            for (side, other) in [(&equal.lexpr, &equal.rexpr), (&equal.rexpr, &equal.lexpr)] {
                let column = side.as_ref().and_then(|side| side.node.as_ref());
                if let (Some(NodeEnum::ColumnRef(column)), Some(other)) = (column, other)
                    && is_value(other)
                {
                    named.extend(column.fields.last().and_then(text_of));
                }
            }
        }
        _ => {}
    }
}

fn is_value(node: &Node) -> bool {
    match &node.node {
        Some(NodeEnum::TypeCast(cast)) => cast.arg.as_deref().is_some_and(is_value),
        Some(NodeEnum::ParamRef(_) | NodeEnum::AConst(_)) => true,
        _ => false,
    }
}
