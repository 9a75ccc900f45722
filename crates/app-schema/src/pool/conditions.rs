//! What a version asks of the rows that are there: which queries find the
//! tenants whose rows do not fit, so that a version that fails can name them,
//! and one tenant's rows need not hold up all others.

use pg_query::protobuf::{
    ConstrType, Constraint, IndexElem, IndexStmt, ResTarget, SelectStmt, TypeCast, TypeName,
};
use pg_query::{Node, NodeEnum};
use serde::{Deserialize, Serialize};

use super::Rewriter;
use super::ast::{TENANT_COLUMN, literal, node, quoted, texts};
use crate::syntax::deparse;

/// Something that a version asks of the rows of a table that was there before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowCondition {
    /// The line in the migration, from 1.
    pub line: usize,
    /// The table.
    pub table: String,
    /// In words, as in `unique (a, b)`.
    pub what: String,
    /// How the tenants are found whose rows do not fit.
    pub find: Find,
    /// How the rows are found in tables that one tenant has, where PostgreSQL
    /// names none of them itself: their number, and one of them by its key.
    #[serde(default)]
    pub in_silo: Option<String>,
    /// The constraint that holds for new rows at once, and is validated for
    /// those that are there when the version is applied.
    pub validate: Option<String>,
}

/// How tenants are found whose rows do not fit, by an administrator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Find {
    /// A query: tenant, number of rows, and one of them by its key, or null.
    Query(String),
    /// A query over the rows of tenant `$1` that fails where they do not fit.
    Probe(String),
}

impl Rewriter<'_> {
    /// Whether a table was there before this version, and so may have rows.
    fn may_have_rows(&self, table: &str) -> bool {
        self.model.tables.contains_key(table) && !self.new_tables.iter().any(|(name, _)| name == table)
    }

    fn ask(&mut self, table: &str, what: String, find: Find, validate: Option<String>) {
        let (line, table) = (self.line, table.to_owned());
        self.conditions.push(RowCondition { line, table, what, find, in_silo: None, validate });
    }

    /// Asks that no row of a table is so.
    fn ask_none(&mut self, table: &str, what: String, is_so: &str, validate: Option<String>) {
        let (example, from) = (self.example(table, ""), quoted(table));
        let found = format!("count(*), {example} FROM {from} WHERE {is_so}");
        let find = Find::Query(format!("SELECT {TENANT_COLUMN}, {found} GROUP BY 1"));
        self.ask(table, what, find, validate);
        if let Some(asked) = self.conditions.last_mut() {
            asked.in_silo = Some(format!("SELECT {found}"));
        }
    }

    /// One row by its primary key, as text: `id=5`.
    fn example(&self, table: &str, alias: &str) -> String {
        let key = self.model.tables.get(table).and_then(|known| known.primary_key()).unwrap_or_default();
        if key.is_empty() {
            return "NULL::text".to_owned();
        }
        let part = |column: &String| {
            format!("{} || {alias}{}::text", literal(&format!("{column}=")), quoted(column))
        };
        format!("min(concat_ws(', ', {}))", key.iter().map(part).collect::<Vec<_>>().join(", "))
    }

    /// Notes what an added constraint asks, and puts its check of the rows off
    /// where PostgreSQL can: then the tenants whose rows fit need not wait.
    pub(super) fn ask_constraint(&mut self, table: &str, inner: &mut Constraint) {
        if !self.may_have_rows(table) || inner.skip_validation {
            return;
        }
        match ConstrType::try_from(inner.contype) {
            Ok(ConstrType::ConstrCheck) => self.ask_check(table, inner),
            Ok(ConstrType::ConstrForeign) => self.ask_foreign_key(table, inner),
            Ok(ConstrType::ConstrPrimary) => {
                let columns = without_tenant(&inner.keys);
                self.ask_not_null(table, &columns);
                self.ask_unique(table, &quoted_all(&columns), None, false);
            }
            Ok(ConstrType::ConstrUnique) => {
                let columns = quoted_all(&without_tenant(&inner.keys));
                self.ask_unique(table, &columns, None, inner.nulls_not_distinct);
            }
            _ => {}
        }
    }

    fn ask_check(&mut self, table: &str, inner: &mut Constraint) {
        let Some(expression) = inner.raw_expr.as_deref().and_then(text_of_expression) else { return };
        let validate = put_off(inner);
        self.ask_none(table, format!("check ({expression})"), &format!("NOT ({expression})"), validate);
    }

    fn ask_foreign_key(&mut self, table: &str, inner: &mut Constraint) {
        let own = without_tenant(&inner.fk_attrs);
        let other = without_tenant(&inner.pk_attrs);
        let Some(to) = inner.pktable.as_ref().map(|relation| relation.relname.clone()) else { return };
        let pairs = own.iter().zip(&other);
        let on: String =
            pairs.map(|(own, other)| format!(" AND r.{} = c.{}", quoted(other), quoted(own))).collect();
        let there: String =
            own.iter().map(|column| format!("c.{} IS NOT NULL AND ", quoted(column))).collect();
        let find = format!(
            "SELECT c.{TENANT_COLUMN}, count(*), {} FROM {} c LEFT JOIN {} r ON r.{TENANT_COLUMN} = c.{TENANT_COLUMN}{on} \
             WHERE {there}r.{TENANT_COLUMN} IS NULL GROUP BY 1",
            self.example(table, "c."),
            quoted(table),
            quoted(&to)
        );
        let is_partitioned =
            |name: &str| self.model.tables.get(name).is_some_and(|known| known.is_partitioned);
        // PostgreSQL 15 takes no NOT VALID foreign key on a partitioned table, and
        // leaves those to one half validated.
        let validate = if is_partitioned(table) || is_partitioned(&to) { None } else { put_off(inner) };
        self.ask(table, format!("foreign key ({}) to {to}", own.join(", ")), Find::Query(find), validate);
    }

    pub(super) fn ask_not_null(&mut self, table: &str, columns: &[String]) {
        if !self.may_have_rows(table) || columns.is_empty() {
            return;
        }
        let are_null: Vec<_> = columns.iter().map(|column| format!("{} IS NULL", quoted(column))).collect();
        self.ask_none(table, format!("not null ({})", columns.join(", ")), &are_null.join(" OR "), None);
    }

    /// A column without a default that must not be null fits no row at all.
    pub(super) fn ask_no_rows(&mut self, table: &str, column: &str) {
        if !self.may_have_rows(table) {
            return;
        }
        let find = format!("SELECT {TENANT_COLUMN}, count(*), NULL::text FROM {} GROUP BY 1", quoted(table));
        self.ask(table, format!("not null ({column}), without a default"), Find::Query(find), None);
    }

    pub(super) fn ask_unique_index(&mut self, table: &str, create: &IndexStmt) {
        let elements = create.index_params.iter().filter_map(|node| match node.node.as_ref()? {
            NodeEnum::IndexElem(element) => text_of_element(element),
            _ => None,
        });
        let elements: Vec<String> = elements.collect();
        let condition = create.where_clause.as_deref().and_then(text_of_expression);
        if create.unique && elements.len() == create.index_params.len() && self.may_have_rows(table) {
            self.ask_unique(table, &elements, condition.as_deref(), create.nulls_not_distinct);
        }
    }

    fn ask_unique(&mut self, table: &str, columns: &[String], condition: Option<&str>, with_nulls: bool) {
        let mut conditions: Vec<String> = condition.map(|text| format!("({text})")).into_iter().collect();
        if !with_nulls {
            conditions.extend(columns.iter().map(|column| format!("{column} IS NOT NULL")));
        }
        let condition = if conditions.is_empty() { "true".to_owned() } else { conditions.join(" AND ") };
        let part = |column: &String| format!("{} || {column}::text", literal(&format!("{column}=")));
        let values = columns.iter().map(part).collect::<Vec<_>>().join(", ");
        let columns = columns.join(", ");
        let find = format!(
            "SELECT {TENANT_COLUMN}, sum(n)::bigint, min(example) FROM (\
             SELECT {TENANT_COLUMN}, count(*) AS n, concat_ws(', ', {values}) AS example FROM {} WHERE {condition} \
             GROUP BY {TENANT_COLUMN}, {columns} HAVING count(*) > 1) doubled GROUP BY 1",
            quoted(table)
        );
        self.ask(table, format!("unique ({columns})"), Find::Query(find), None);
    }

    /// A change of type asks that every value can be made one of the new type.
    pub(super) fn ask_type(&mut self, table: &str, column: &str, type_name: &TypeName, using: Option<&Node>) {
        if !self.may_have_rows(table) {
            return;
        }
        let value = match using {
            Some(using) => using.clone(),
            None => column_node(column),
        };
        let cast = TypeCast { arg: Some(Box::new(value)), type_name: Some(type_name.clone()), location: -1 };
        let Some(text) = text_of_expression(&node(NodeEnum::TypeCast(Box::new(cast)))) else { return };
        let probe = format!("SELECT count({text}) FROM {} WHERE {TENANT_COLUMN} = $1", quoted(table));
        self.ask(table, format!("the new type of {column}"), Find::Probe(probe), None);
    }

    /// A constraint of this version has another name.
    pub(super) fn rename_in_conditions(&mut self, table: &str, from: &str, to: &str) {
        for condition in self.conditions.iter_mut().filter(|condition| condition.table == table) {
            if condition.validate.as_deref() == Some(from) {
                condition.validate = Some(to.to_owned());
            }
        }
    }
}

/// `NOT VALID`, where the constraint has a name by which to validate it.
fn put_off(inner: &mut Constraint) -> Option<String> {
    if inner.conname.is_empty() {
        return None;
    }
    inner.skip_validation = true;
    inner.initially_valid = false;
    Some(inner.conname.clone())
}

fn without_tenant(columns: &[Node]) -> Vec<String> {
    texts(columns).into_iter().filter(|column| column != TENANT_COLUMN).collect()
}

fn quoted_all(columns: &[String]) -> Vec<String> {
    columns.iter().map(|column| quoted(column)).collect()
}

fn text_of_element(element: &IndexElem) -> Option<String> {
    match &element.expr {
        Some(expression) => text_of_expression(expression).map(|text| format!("({text})")),
        None => Some(quoted(&element.name)),
    }
}

fn column_node(column: &str) -> Node {
    let fields = vec![super::ast::string(column)];
    node(NodeEnum::ColumnRef(pg_query::protobuf::ColumnRef { fields, location: -1 }))
}

/// An expression as SQL.
fn text_of_expression(expression: &Node) -> Option<String> {
    let target = ResTarget { val: Some(Box::new(expression.clone())), ..ResTarget::default() };
    let select = SelectStmt {
        target_list: vec![node(NodeEnum::ResTarget(Box::new(target)))],
        limit_option: pg_query::protobuf::LimitOption::Default as i32,
        op: pg_query::protobuf::SetOperation::SetopNone as i32,
        ..SelectStmt::default()
    };
    let text = deparse(NodeEnum::SelectStmt(Box::new(select))).ok()?;
    text.strip_prefix("SELECT ").map(str::to_owned)
}
