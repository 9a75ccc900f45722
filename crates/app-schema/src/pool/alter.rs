//! `ALTER TABLE` in the pool form, command by command.

use pg_query::protobuf::{AlterTableCmd, AlterTableStmt, AlterTableType, ConstrType, Constraint, ObjectType};
use pg_query::{Node, NodeEnum};

use super::ast::{TENANT_COLUMN, constraint, json, last_name, node, quoted};
use super::model::{self, Calls, calls_of};
use super::{Rewriter, Runs};
use crate::facts::Facts;
use crate::refusal::RefusalKind;

impl Rewriter<'_> {
    pub(super) fn alter_table(&mut self, alter: &AlterTableStmt) {
        let Some(relation) = &alter.relation else { return };
        let name = relation.relname.clone();
        if self.refuse_security_options(alter) {
            return;
        }
        match ObjectType::try_from(alter.objtype) {
            Ok(ObjectType::ObjectTable) if self.model.tables.contains_key(&name) => {
                self.alter_known_table(&name, alter);
            }
            Ok(ObjectType::ObjectTable) if alter.missing_ok => self.emit_unchanged(Runs::Owner),
            Ok(ObjectType::ObjectTable) => {
                let reason = format!("the app schema has no table {name}");
                self.refuse(relation.location, RefusalKind::UnknownObject, reason);
            }
            Ok(ObjectType::ObjectView | ObjectType::ObjectIndex | ObjectType::ObjectType) => {
                self.emit_unchanged(Runs::Owner);
            }
            _ => self.refuse(relation.location, RefusalKind::NotSupported, "this is not supported in a pool"),
        }
    }

    /// The options of a view decide whose rights it reads with.
    fn refuse_security_options(&mut self, alter: &AlterTableStmt) -> bool {
        let options = alter.cmds.iter().filter_map(as_command).filter_map(|cmd| {
            match cmd.def.as_ref()?.node.as_ref()? {
                NodeEnum::List(list) => Some(&list.items),
                _ => None,
            }
        });
        let names_invoker = options.flatten().any(|node| {
            matches!(&node.node, Some(NodeEnum::DefElem(option)) if option.defname == "security_invoker")
        });
        if names_invoker {
            let reason =
                "a view in a pool always reads with the rights of whoever asks: leave security_invoker out";
            self.refuse(0, RefusalKind::RowSecurity, reason);
        }
        names_invoker
    }

    fn alter_known_table(&mut self, table: &str, alter: &AlterTableStmt) {
        let mut commands = Vec::new();
        let mut runs = Runs::Owner;
        for cmd in alter.cmds.iter().filter_map(as_command) {
            for rewritten in self.command(table, cmd) {
                if checks_rows_as_admin(&rewritten) {
                    runs = Runs::Admin;
                }
                commands.push(node(NodeEnum::AlterTableCmd(Box::new(rewritten))));
            }
        }
        if commands.is_empty() {
            return;
        }
        let rewritten = AlterTableStmt { cmds: commands, ..alter.clone() };
        self.emit_tree(NodeEnum::AlterTableStmt(rewritten), runs);
    }

    fn command(&mut self, table: &str, cmd: &AlterTableCmd) -> Vec<AlterTableCmd> {
        use AlterTableType as T;
        match T::try_from(cmd.subtype) {
            Ok(T::AtAddColumn) => return self.add_column(table, cmd),
            Ok(T::AtAddConstraint) => return self.add_constraint(table, cmd),
            Ok(T::AtDropColumn) => self.model.drop_column(table, &cmd.name),
            Ok(T::AtDropConstraint) => {
                if let Some(known) = self.model.tables.get_mut(table) {
                    known.constraints.remove(&cmd.name);
                }
            }
            Ok(T::AtColumnDefault) => self.set_default(table, cmd),
            Ok(T::AtAlterColumnType) => self.alter_type(table, cmd),
            Ok(T::AtAddIdentity | T::AtSetIdentity) => self.set_identity(table, cmd),
            Ok(T::AtSetExpression) => {
                let calls = calls_of(&Facts::of(&json(cmd)));
                self.note_expression(table, format!("an expression of {table}.{}", cmd.name), calls);
            }
            Ok(T::AtValidateConstraint) => {}
            Ok(
                T::AtDropNotNull
                | T::AtSetNotNull
                | T::AtSetStatistics
                | T::AtSetOptions
                | T::AtResetOptions
                | T::AtSetStorage
                | T::AtSetCompression
                | T::AtAlterConstraint
                | T::AtSetRelOptions
                | T::AtResetRelOptions
                | T::AtEnableTrig
                | T::AtDisableTrig
                | T::AtEnableTrigUser
                | T::AtDisableTrigUser
                | T::AtReplicaIdentity
                | T::AtDropIdentity
                | T::AtDropExpression
                | T::AtClusterOn
                | T::AtDropCluster,
            ) => {}
            other => {
                self.refuse_command(other.ok());
                return Vec::new();
            }
        }
        vec![cmd.clone()]
    }

    fn refuse_command(&mut self, kind: Option<AlterTableType>) {
        use AlterTableType as T;
        let (kind, reason) = match kind {
            Some(
                T::AtEnableRowSecurity
                | T::AtDisableRowSecurity
                | T::AtForceRowSecurity
                | T::AtNoForceRowSecurity,
            ) => (
                RefusalKind::RowSecurity,
                "row-level security keeps the tenants of a pool apart and is Insula's",
            ),
            Some(T::AtAddInherit | T::AtDropInherit | T::AtAttachPartition | T::AtDetachPartition) => (
                RefusalKind::TableKind,
                "inheritance and partitions share rows past the policies: they are not supported in a pool",
            ),
            Some(T::AtSetLogged | T::AtSetUnLogged) => {
                (RefusalKind::TableKind, "an unlogged table loses every tenant's rows at a crash")
            }
            Some(T::AtEnableTrigAll | T::AtDisableTrigAll) => (
                RefusalKind::Trigger,
                "ALL takes in the triggers that hold foreign keys: name the trigger, or write USER",
            ),
            _ => (RefusalKind::NotSupported, "this form of ALTER TABLE is not supported in a pool"),
        };
        self.refuse(0, kind, reason);
    }

    fn add_column(&mut self, table: &str, cmd: &AlterTableCmd) -> Vec<AlterTableCmd> {
        let Some(NodeEnum::ColumnDef(column)) = cmd.def.as_ref().and_then(|def| def.node.as_ref()) else {
            return Vec::new();
        };
        let known = self.model.tables.get(table);
        if cmd.missing_ok && known.is_some_and(|known| known.columns.iter().any(|c| c.name == column.colname))
        {
            return Vec::new();
        }
        let split = self.split_column(table, column);
        let default = self.model.tables.get_mut(table).and_then(|known| {
            known.has_columns_behind_tenant = true;
            known.column_mut(&column.colname).map(|noted| noted.default.clone())
        });
        // The rows that are there get the default from whoever runs this.
        self.note_expression(
            table,
            format!("the default of the new column {table}.{}", column.colname),
            default.unwrap_or_default(),
        );
        let def = node(NodeEnum::ColumnDef(Box::new(split.column)));
        let mut commands = vec![AlterTableCmd { def: Some(Box::new(def)), ..cmd.clone() }];
        let constraints = self.table_constraints(table, split.moved);
        commands.extend(constraints.into_iter().map(add_constraint_command));
        commands
    }

    fn add_constraint(&mut self, table: &str, cmd: &AlterTableCmd) -> Vec<AlterTableCmd> {
        let Some(NodeEnum::Constraint(inner)) = cmd.def.as_ref().and_then(|def| def.node.as_ref()) else {
            return Vec::new();
        };
        let rewritten = self.table_constraint(table, (**inner).clone());
        rewritten
            .map(|inner| AlterTableCmd { def: Some(Box::new(constraint(inner))), ..cmd.clone() })
            .into_iter()
            .collect()
    }

    fn set_default(&mut self, table: &str, cmd: &AlterTableCmd) {
        let calls = cmd.def.as_ref().map_or_else(Calls::new, |def| calls_of(&Facts::of(&json(def))));
        if let Some(column) = self.model.tables.get_mut(table).and_then(|known| known.column_mut(&cmd.name)) {
            column.default = calls;
        }
    }

    fn alter_type(&mut self, table: &str, cmd: &AlterTableCmd) {
        let Some(NodeEnum::ColumnDef(column)) = cmd.def.as_ref().and_then(|def| def.node.as_ref()) else {
            return;
        };
        let type_name = column.type_name.as_ref().map(|name| last_name(&name.names)).unwrap_or_default();
        let calls =
            column.raw_default.as_ref().map_or_else(Calls::new, |using| calls_of(&Facts::of(&json(using))));
        self.note_expression(table, format!("the new type of {table}.{}", cmd.name), calls);
        if let Some(known) = self.model.tables.get_mut(table).and_then(|known| known.column_mut(&cmd.name)) {
            known.is_smallint = type_name == "int2";
        }
    }

    fn set_identity(&mut self, table: &str, cmd: &AlterTableCmd) {
        if self.model.tables.get(table).is_some_and(|known| known.is_smallint(&cmd.name)) {
            self.refuse_small_ids(0);
        }
        match cmd.def.as_ref().and_then(|def| def.node.as_ref()) {
            Some(NodeEnum::List(list)) => self.refuse_restart(&list.items),
            Some(NodeEnum::Constraint(inner)) => self.refuse_restart(&inner.options),
            _ => {}
        }
        if cmd.subtype == AlterTableType::AtAddIdentity as i32 {
            let sequence = self.model.free_relation_name(table, &cmd.name, "seq");
            self.model.sequences.insert(sequence);
        }
    }

    /// Notes the new name of a constraint.
    pub(super) fn rename_constraint(&mut self, table: &str, from: &str, to: &str) {
        let Some(known) = self.model.tables.get_mut(table) else { return };
        let constraint = known.constraints.remove(from).unwrap_or(model::Constraint::Check);
        known.constraints.insert(to.to_owned(), constraint);
    }

    /// Refuses a name that the pool form needs.
    pub(super) fn refuse_tenant_name(&mut self, name: &str) {
        if name == TENANT_COLUMN {
            let reason = format!("the pool form has a column {} of its own in every table", quoted(name));
            self.refuse(0, RefusalKind::TenantColumn, reason);
        }
    }
}

fn as_command(node: &Node) -> Option<&AlterTableCmd> {
    match node.node.as_ref()? {
        NodeEnum::AlterTableCmd(cmd) => Some(cmd),
        _ => None,
    }
}

fn add_constraint_command(def: Node) -> AlterTableCmd {
    AlterTableCmd {
        subtype: AlterTableType::AtAddConstraint as i32,
        def: Some(Box::new(def)),
        behavior: pg_query::protobuf::DropBehavior::DropRestrict as i32,
        ..AlterTableCmd::default()
    }
}

/// PostgreSQL checks a new foreign key by a query as whoever adds it. As the
/// owner under forced row-level security that query sees no row, and so the
/// key would be taken for valid whatever the rows are.
fn checks_rows_as_admin(cmd: &AlterTableCmd) -> bool {
    let adds_foreign_key = matches!(cmd.def.as_ref().and_then(|def| def.node.as_ref()),
        Some(NodeEnum::Constraint(inner)) if is_foreign_key(inner));
    adds_foreign_key || cmd.subtype == AlterTableType::AtValidateConstraint as i32
}

fn is_foreign_key(inner: &Constraint) -> bool {
    inner.contype == ConstrType::ConstrForeign as i32
}
