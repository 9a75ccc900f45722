//! `CREATE TABLE` in the pool form.

use pg_query::protobuf::{ColumnDef, ConstrType, Constraint, CreateStmt};
use pg_query::{Node, NodeEnum};

use super::ast::{TENANT_COLUMN, as_constraint, constraint, json, last_name, node, quoted, string};
use super::model::{Calls, Column, Expression, Table, calls_of};
use super::{POLICY_CHECK, POLICY_NAME, POLICY_USING, Rewriter, Runs};
use crate::facts::Facts;
use crate::refusal::RefusalKind;

/// A column without the constraints that go to the table, and those.
pub(super) struct SplitColumn {
    pub(super) column: ColumnDef,
    pub(super) moved: Vec<Constraint>,
}

impl Rewriter<'_> {
    pub(super) fn create_table(&mut self, create: &CreateStmt) {
        let Some(relation) = &create.relation else { return };
        let name = relation.relname.clone();
        if let Some(reason) = unsuitable(create) {
            self.refuse(relation.location, RefusalKind::TableKind, reason);
            return;
        }
        if create.if_not_exists && self.model.tables.contains_key(&name) {
            return;
        }
        if create.partbound.is_some() {
            self.create_partition(create, &name);
            return;
        }
        self.model.tables.insert(name.clone(), Table::default());
        let (mut columns, moved) = self.table_elements(create, &name);
        self.note_partitioning(create, &name);
        columns.push(tenant_column());
        columns.extend(self.table_constraints(&name, moved));
        let table = CreateStmt { table_elts: columns, ..create.clone() };
        self.emit_tree(NodeEnum::CreateStmt(table), Runs::Owner);
        self.protect_table(&name);
        self.new_tables.push((name, self.line));
    }

    /// The columns and constraints that are written out, the keys apart.
    pub(super) fn table_elements(&mut self, create: &CreateStmt, name: &str) -> (Vec<Node>, Vec<Constraint>) {
        let mut columns = Vec::new();
        let mut moved = Vec::new();
        for element in &create.table_elts {
            match &element.node {
                Some(NodeEnum::ColumnDef(column)) => {
                    let split = self.split_column(name, column);
                    columns.push(node(NodeEnum::ColumnDef(Box::new(split.column))));
                    moved.extend(split.moved);
                }
                Some(NodeEnum::Constraint(table_constraint)) => moved.push((**table_constraint).clone()),
                _ => {
                    let location = create.relation.as_ref().map_or(0, |relation| relation.location);
                    let reason = "LIKE copies what the pool form has to see: write the columns out";
                    self.refuse(location, RefusalKind::TableKind, reason);
                }
            }
        }
        (columns, moved)
    }

    pub(super) fn protect_table(&mut self, name: &str) {
        let table = quoted(name);
        self.emit(
            format!("ALTER TABLE {table} ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY"),
            Runs::Owner,
        );
        self.emit(
            format!(
                "CREATE POLICY {POLICY_NAME} ON {table} AS PERMISSIVE FOR ALL TO PUBLIC \
                 USING ({POLICY_USING}) WITH CHECK ({POLICY_CHECK})"
            ),
            Runs::Owner,
        );
    }

    /// Takes the keys out of a column, as constraints of the table, and notes
    /// the column in the model.
    pub(super) fn split_column(&mut self, table: &str, column: &ColumnDef) -> SplitColumn {
        let name = &column.colname;
        if name == TENANT_COLUMN {
            let reason =
                "the pool form has a column tenant_id of its own in every table: give yours another name";
            self.refuse(column.location, RefusalKind::TenantColumn, reason);
        }
        let type_name = column.type_name.as_ref().map(|name| last_name(&name.names)).unwrap_or_default();
        let is_smallint = matches!(type_name.as_str(), "int2" | "smallserial" | "serial2");
        if matches!(type_name.as_str(), "smallserial" | "serial2") {
            self.refuse_small_ids(column.location);
        }
        let mut kept = Vec::new();
        let mut moved: Vec<Constraint> = Vec::new();
        let mut default = Calls::new();
        for inner in column.constraints.iter().filter_map(as_constraint) {
            let calls = calls_of(&Facts::of(&json(inner)));
            match ConstrType::try_from(inner.contype) {
                Ok(ConstrType::ConstrPrimary | ConstrType::ConstrUnique) => {
                    moved.push(Constraint { keys: vec![string(name)], ..inner.clone() });
                }
                Ok(ConstrType::ConstrForeign) => {
                    moved.push(Constraint { fk_attrs: vec![string(name)], ..inner.clone() });
                }
                Ok(
                    attribute @ (ConstrType::ConstrAttrDeferrable
                    | ConstrType::ConstrAttrNotDeferrable
                    | ConstrType::ConstrAttrDeferred
                    | ConstrType::ConstrAttrImmediate),
                ) => apply_attribute(&mut moved, attribute),
                Ok(ConstrType::ConstrCheck | ConstrType::ConstrGenerated) => {
                    self.note_expression(table, format!("an expression of {table}.{name}"), calls);
                    kept.push(constraint(inner.clone()));
                }
                Ok(ConstrType::ConstrDefault) => {
                    default = calls;
                    kept.push(constraint(inner.clone()));
                }
                Ok(ConstrType::ConstrIdentity) => {
                    if is_smallint {
                        self.refuse_small_ids(inner.location);
                    }
                    self.refuse_restart(&inner.options);
                    kept.push(constraint(inner.clone()));
                }
                Ok(ConstrType::ConstrNull | ConstrType::ConstrNotnull) => {
                    kept.push(constraint(inner.clone()))
                }
                _ => self.refuse(
                    inner.location,
                    RefusalKind::Constraint,
                    "this kind of constraint is not known",
                ),
            }
        }
        if takes_a_sequence(&type_name, column) {
            self.note_sequence_of(table, name, identity_options(column));
        }
        if let Some(table) = self.model.tables.get_mut(table) {
            table.columns.push(Column { name: name.clone(), type_name, is_smallint, default });
        }
        SplitColumn { column: ColumnDef { constraints: kept, ..column.clone() }, moved }
    }

    /// Notes the sequence of a serial or identity column, which an identity may
    /// name itself.
    pub(super) fn note_sequence_of(&mut self, table: &str, column: &str, options: &[Node]) {
        let named = options.iter().find_map(|option| match option.node.as_ref()? {
            NodeEnum::DefElem(option) if option.defname == "sequence_name" => {
                match option.arg.as_ref()?.node.as_ref()? {
                    NodeEnum::List(list) => Some(last_name(&list.items)),
                    _ => None,
                }
            }
            _ => None,
        });
        let sequence = named.unwrap_or_else(|| self.model.free_relation_name(table, column, "seq"));
        self.model.sequences.insert(sequence, Some((table.to_owned(), column.to_owned())));
    }

    pub(super) fn refuse_small_ids(&mut self, location: i32) {
        let reason =
            "all tenants of a pool draw their ids from one sequence, and smallint ends at 32767: use bigint";
        self.refuse(location, RefusalKind::Sequence, reason);
    }

    pub(super) fn note_expression(&mut self, table: &str, what: String, calls: Calls) {
        if let Some(table) = self.model.tables.get_mut(table) {
            table.expressions.push(Expression { what, calls });
        }
    }

    /// Gives an index on the tenant's column to each new table that no key
    /// serves: every statement of a tenant has the policy's condition.
    pub(super) fn index_keyless_tables(&mut self) {
        for (table, line) in std::mem::take(&mut self.new_tables) {
            let is_partition = self.model.tables.get(&table).is_none_or(|known| known.partition_of.is_some());
            if is_partition || self.model.has_tenant_index(&table) {
                continue;
            }
            let name = self.model.free_relation_name(&table, TENANT_COLUMN, "idx");
            self.line = line;
            self.emit(
                format!("CREATE INDEX {} ON {} ({TENANT_COLUMN})", quoted(&name), quoted(&table)),
                Runs::Owner,
            );
            self.note_tenant_index(name.clone(), table.clone());
            self.copy_index_down(&table, &name);
        }
    }
}

/// A serial or identity column makes a sequence.
fn takes_a_sequence(type_name: &str, column: &ColumnDef) -> bool {
    let is_identity = |inner: &Constraint| inner.contype == ConstrType::ConstrIdentity as i32;
    matches!(type_name, "serial" | "bigserial" | "serial4" | "serial8")
        || column.constraints.iter().filter_map(as_constraint).any(is_identity)
}

fn identity_options(column: &ColumnDef) -> &[Node] {
    let constraints = column.constraints.iter().filter_map(as_constraint);
    let mut identity = constraints.filter(|inner| inner.contype == ConstrType::ConstrIdentity as i32);
    identity.next().map_or(&[], |inner| &inner.options)
}

/// `DEFERRABLE` and the like belong to the key before them.
fn apply_attribute(moved: &mut [Constraint], attribute: ConstrType) {
    let Some(last) = moved.last_mut() else { return };
    match attribute {
        ConstrType::ConstrAttrDeferrable => last.deferrable = true,
        ConstrType::ConstrAttrDeferred => (last.deferrable, last.initdeferred) = (true, true),
        ConstrType::ConstrAttrNotDeferrable => last.deferrable = false,
        _ => last.initdeferred = false,
    }
}

fn unsuitable(create: &CreateStmt) -> Option<&'static str> {
    let persistence = create.relation.as_ref().map(|relation| relation.relpersistence.as_str());
    if !create.inh_relations.is_empty() && create.partbound.is_none() {
        Some(
            "an inherited table shares rows with its parent past the parent's policies: write the columns out",
        )
    } else if persistence == Some("u") {
        Some("an unlogged table loses every tenant's rows at a crash: leave UNLOGGED out")
    } else if create.of_typename.is_some() {
        Some("a table OF a type cannot have the tenant's column: write the columns out")
    } else if !create.access_method.is_empty() {
        Some("another table access method is not supported in a pool: leave USING out")
    } else {
        None
    }
}

/// `tenant_id uuid NOT NULL DEFAULT insula.current_tenant()`
fn tenant_column() -> Node {
    let parsed =
        pg_query::parse("CREATE TABLE t (tenant_id uuid NOT NULL DEFAULT insula.current_tenant())", 0);
    let statement = parsed.ok().and_then(|parsed| parsed.protobuf.stmts.into_iter().next()?.stmt?.node);
    match statement {
        Some(NodeEnum::CreateStmt(create)) => create.table_elts.into_iter().next().unwrap_or_default(),
        _ => Node::default(),
    }
}
