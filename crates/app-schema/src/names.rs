//! The names that PostgreSQL gives to what its author left unnamed. The pool
//! form names such things itself, as its columns are others, and must come to
//! the same names, so that a later `DROP CONSTRAINT t_a_key` means the same in
//! both forms. (Follows makeObjectName, ChooseRelationName and
//! ChooseIndexColumnNames of PostgreSQL 15's src/backend/commands/indexcmds.c.)

use pg_query::NodeEnum;
use pg_query::protobuf::IndexElem;

/// PostgreSQL's limit for a name, in bytes.
const MAX_NAME_BYTES: usize = 63;

/// `table_columns_label`, the longer of the first two cut so that all fits.
pub(crate) fn object_name(table: &str, columns: &str, label: &str) -> String {
    let overhead = label.len() + 1 + usize::from(!columns.is_empty());
    let room = MAX_NAME_BYTES.saturating_sub(overhead);
    let (mut table_bytes, mut column_bytes) = (table.len(), columns.len());
    while table_bytes + column_bytes > room {
        if table_bytes > column_bytes {
            table_bytes -= 1;
        } else {
            column_bytes -= 1;
        }
    }
    let table = clip(table, table_bytes);
    if columns.is_empty() {
        return format!("{table}_{label}");
    }
    format!("{table}_{}_{label}", clip(columns, column_bytes))
}

/// The first such name that is not taken: `t_a_key`, `t_a_key1`, `t_a_key2`.
pub(crate) fn free_name(table: &str, columns: &str, label: &str, is_taken: impl Fn(&str) -> bool) -> String {
    let mut number = 0_u32;
    loop {
        let label = if number == 0 { label.to_owned() } else { format!("{label}{number}") };
        let name = object_name(table, columns, &label);
        if !is_taken(&name) {
            return name;
        }
        number += 1;
    }
}

fn clip(name: &str, bytes: usize) -> &str {
    let mut end = bytes.min(name.len());
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    &name[..end]
}

/// The names of an index's columns, as they go into its default name.
pub(crate) fn index_columns<'a>(elements: impl IntoIterator<Item = &'a IndexElem>) -> String {
    let mut names: Vec<String> = Vec::new();
    for element in elements {
        let base = if element.name.is_empty() {
            element
                .expr
                .as_ref()
                .and_then(|node| expression_name(node.node.as_ref()?))
                .unwrap_or("expr".to_owned())
        } else {
            element.name.clone()
        };
        let mut name = base.clone();
        let mut number = 0_u32;
        while names.contains(&name) {
            number += 1;
            name = format!("{base}{number}");
        }
        names.push(name);
    }
    names.join("_")
}

/// The name that an expression has as a column (FigureColname of
/// src/backend/parser/parse_target.c), for the kinds that indexes hold.
fn expression_name(node: &NodeEnum) -> Option<String> {
    let last = |names: &[pg_query::Node]| names.last().and_then(text_of);
    match node {
        NodeEnum::ColumnRef(column) => column.fields.iter().rev().find_map(text_of),
        NodeEnum::FuncCall(call) => last(&call.funcname),
        NodeEnum::TypeCast(cast) => {
            let inner = cast.arg.as_ref().and_then(|arg| expression_name(arg.node.as_ref()?));
            inner.or_else(|| last(&cast.type_name.as_ref()?.names))
        }
        NodeEnum::CollateClause(clause) => expression_name(clause.arg.as_ref()?.node.as_ref()?),
        NodeEnum::AIndirection(indirection) => {
            let field = indirection.indirection.iter().rev().find_map(text_of);
            field.or_else(|| expression_name(indirection.arg.as_ref()?.node.as_ref()?))
        }
        NodeEnum::CaseExpr(case) => {
            let inner = case.defresult.as_ref().and_then(|node| expression_name(node.node.as_ref()?));
            Some(inner.unwrap_or_else(|| "case".to_owned()))
        }
        NodeEnum::CoalesceExpr(_) => Some("coalesce".to_owned()),
        NodeEnum::MinMaxExpr(expr) => Some(if expr.op == 1 { "greatest" } else { "least" }.to_owned()),
        NodeEnum::AArrayExpr(_) => Some("array".to_owned()),
        NodeEnum::RowExpr(_) => Some("row".to_owned()),
        NodeEnum::AExpr(expr) if expr.kind == pg_query::protobuf::AExprKind::AexprNullif as i32 => {
            Some("nullif".to_owned())
        }
        _ => None,
    }
}

/// The text of a string node.
pub(crate) fn text_of(node: &pg_query::Node) -> Option<String> {
    match node.node.as_ref()? {
        NodeEnum::String(text) => Some(text.sval.clone()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_cut_as_postgresql_cuts_them() {
        assert_eq!(object_name("t", "a_b", "key"), "t_a_b_key");
        assert_eq!(object_name("t", "", "pkey"), "t_pkey");
        // Seen on PostgreSQL 15: CREATE TABLE <40 x "t"> (<50 x "c"> int UNIQUE).
        let name = object_name(&"t".repeat(40), &"c".repeat(50), "key");
        assert_eq!(name, format!("{}_{}_key", "t".repeat(29), "c".repeat(29)));
        let name = object_name(&"ü".repeat(30), &"c".repeat(50), "key");
        assert!(name.len() <= 63 && name.starts_with("üü"));
    }

    #[test]
    fn a_taken_name_gets_a_number() {
        let taken = ["t_a_key", "t_a_key1"];
        assert_eq!(free_name("t", "a", "key", |name| taken.contains(&name)), "t_a_key2");
    }
}
