//! `ALTER TABLE` in the pool form, command by command.

use pg_query::protobuf::{
    AlterTableCmd, AlterTableStmt, AlterTableType, ColumnDef, ConstrType, Constraint, DropBehavior,
    ObjectType,
};
use pg_query::{Node, NodeEnum};

use super::ast::{TENANT_COLUMN, as_constraint, constraint, json, last_name, node, quoted};
use super::model::{self, Calls, calls_of};
use super::partitions::partition_of;
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
            Ok(ObjectType::ObjectIndex) => self.alter_index(&name, alter),
            Ok(ObjectType::ObjectView) => {
                let calls = calls_of(&Facts::of(&json(&alter.cmds)));
                if let Some(view) = self.model.views.get_mut(&name) {
                    view.calls.extend(calls);
                }
                self.emit_unchanged(Runs::Owner);
            }
            Ok(ObjectType::ObjectType) => self.emit_unchanged(Runs::Owner),
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

    /// Columns of an index have numbers, and in the pool the tenant's is the first.
    fn alter_index(&mut self, name: &str, alter: &AlterTableStmt) {
        let is_shifted = match self.model.indexes.get(name) {
            Some(index) => index.is_tenant_first,
            None => self.model.key_owner(name).is_some(),
        };
        let mut rewritten = alter.clone();
        for node in &mut rewritten.cmds {
            let Some(NodeEnum::AlterTableCmd(cmd)) = &mut node.node else { continue };
            if is_shifted && cmd.num > 0 {
                cmd.num += 1;
            }
            if let Some(child) =
                partition_of(cmd.def.as_deref()).and_then(|partition| partition.name.as_ref())
            {
                self.model.attach_index(name, &child.relname);
            }
        }
        self.emit_tree(NodeEnum::AlterTableStmt(rewritten), Runs::Owner);
    }

    fn alter_known_table(&mut self, table: &str, alter: &AlterTableStmt) {
        let mut commands = Vec::new();
        let mut runs = Runs::Owner;
        let with_partitions = alter.relation.as_ref().is_none_or(|relation| relation.inh);
        for cmd in alter.cmds.iter().filter_map(as_command) {
            self.refuse_tenant_name(&cmd.name);
            for rewritten in self.command(table, cmd, with_partitions) {
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

    fn command(&mut self, table: &str, cmd: &AlterTableCmd, with_partitions: bool) -> Vec<AlterTableCmd> {
        use AlterTableType as T;
        match T::try_from(cmd.subtype) {
            Ok(T::AtAddColumn) => return self.add_column(table, cmd),
            Ok(T::AtAddConstraint) => return self.add_constraint(table, cmd, with_partitions),
            Ok(T::AtDropColumn) => self.model.drop_column(table, &cmd.name),
            Ok(T::AtDropConstraint) => {
                let cascade = cmd.behavior == DropBehavior::DropCascade as i32;
                self.model.drop_constraint(table, &cmd.name, cascade);
            }
            Ok(T::AtColumnDefault) => self.set_default(table, cmd, with_partitions),
            Ok(T::AtSetNotNull) => self.ask_not_null(table, std::slice::from_ref(&cmd.name)),
            Ok(T::AtAlterColumnType) => self.alter_type(table, cmd),
            Ok(T::AtAddIdentity | T::AtSetIdentity) => self.set_identity(table, cmd),
            Ok(kind @ (T::AtAttachPartition | T::AtDetachPartition)) => {
                let Some(partition) = partition_of(cmd.def.as_deref()) else { return Vec::new() };
                let is_known = match kind {
                    T::AtAttachPartition => self.attach_partition(table, partition),
                    _ => self.detach_partition(partition),
                };
                if !is_known {
                    return Vec::new();
                }
            }
            Ok(T::AtSetExpression) => {
                let calls = calls_of(&Facts::of(&json(cmd)));
                self.note_expression(table, format!("an expression of {table}.{}", cmd.name), calls);
            }
            Ok(T::AtDropIdentity) => {
                let owner = Some((table.to_owned(), cmd.name.clone()));
                self.model.sequences.retain(|_, owned| *owned != owner);
            }
            Ok(T::AtValidateConstraint) => {}
            Ok(
                T::AtDropNotNull
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
            Some(T::AtAddInherit | T::AtDropInherit) => (
                RefusalKind::TableKind,
                "an inherited table shares rows with its parent past the parent's policies: use a partitioned table",
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
        let noted =
            self.model.tables.get_mut(table).and_then(|known| known.column_mut(&column.colname)).cloned();
        for name in self.model.with_partitions(table) {
            let Some(known) = self.model.tables.get_mut(&name) else { continue };
            known.has_columns_behind_tenant = true;
            if name != table {
                known.columns.extend(noted.clone());
            }
        }
        let default = noted.map(|noted| noted.default);
        // The rows that are there get the default from whoever runs this.
        self.note_expression(
            table,
            format!("the default of the new column {table}.{}", column.colname),
            default.unwrap_or_default(),
        );
        if must_be_given(column) {
            self.ask_no_rows(table, &column.colname);
        }
        let def = node(NodeEnum::ColumnDef(Box::new(split.column)));
        let mut commands = vec![AlterTableCmd { def: Some(Box::new(def)), ..cmd.clone() }];
        let constraints = self.table_constraints(table, split.moved);
        for inner in constraints.iter().filter_map(as_constraint) {
            self.copy_index_down(table, &inner.conname);
        }
        self.copy_constraints_down(table);
        commands.extend(constraints.into_iter().map(add_constraint_command));
        commands
    }

    fn add_constraint(
        &mut self,
        table: &str,
        cmd: &AlterTableCmd,
        with_partitions: bool,
    ) -> Vec<AlterTableCmd> {
        let Some(NodeEnum::Constraint(inner)) = cmd.def.as_ref().and_then(|def| def.node.as_ref()) else {
            return Vec::new();
        };
        let mut rewritten = self.table_constraint(table, (**inner).clone());
        if let Some(rewritten) = &mut rewritten {
            self.ask_constraint(table, rewritten);
        }
        if let Some(rewritten) = rewritten.as_ref().filter(|_| with_partitions) {
            self.copy_index_down(table, &rewritten.conname);
            self.copy_constraints_down(table);
        }
        rewritten
            .map(|inner| AlterTableCmd { def: Some(Box::new(constraint(inner))), ..cmd.clone() })
            .into_iter()
            .collect()
    }

    fn set_default(&mut self, table: &str, cmd: &AlterTableCmd, with_partitions: bool) {
        let calls = cmd.def.as_ref().map_or_else(Calls::new, |def| calls_of(&Facts::of(&json(def))));
        let tables = if with_partitions { self.model.with_partitions(table) } else { vec![table.to_owned()] };
        for name in tables {
            let known = self.model.tables.get_mut(&name);
            if let Some(column) = known.and_then(|known| known.column_mut(&cmd.name)) {
                column.default.clone_from(&calls);
            }
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
        if let Some(name) = &column.type_name {
            self.ask_type(table, &cmd.name, name, column.raw_default.as_deref());
        }
        for name in self.model.with_partitions(table) {
            let known = self.model.tables.get_mut(&name);
            if let Some(known) = known.and_then(|known| known.column_mut(&cmd.name)) {
                known.is_smallint = type_name == "int2";
                known.type_name.clone_from(&type_name);
            }
        }
    }

    fn set_identity(&mut self, table: &str, cmd: &AlterTableCmd) {
        if self.model.tables.get(table).is_some_and(|known| known.is_smallint(&cmd.name)) {
            self.refuse_small_ids(0);
        }
        match cmd.def.as_ref().and_then(|def| def.node.as_ref()) {
            Some(NodeEnum::List(list)) => self.refuse_restart(&list.items),
            Some(NodeEnum::Constraint(inner)) => {
                self.refuse_restart(&inner.options);
                self.note_sequence_of(table, &cmd.name, &inner.options);
            }
            _ => {}
        }
    }

    /// Notes the new name of a constraint.
    pub(super) fn rename_constraint(&mut self, table: &str, from: &str, to: &str) {
        let Some(known) = self.model.tables.get_mut(table) else { return };
        let constraint = known.constraints.remove(from);
        let constraint = constraint.unwrap_or(model::Constraint::Check { columns: Default::default() });
        let is_key = matches!(constraint, model::Constraint::Key { .. });
        known.constraints.insert(to.to_owned(), constraint);
        self.rename_in_conditions(table, from, to);
        if is_key {
            self.model.rename_parent(from, to);
        } else {
            for partition in self.model.partitions(table) {
                self.rename_constraint(&partition, from, to);
            }
        }
    }

    /// Refuses a name that the pool form needs.
    pub(super) fn refuse_tenant_name(&mut self, name: &str) {
        if name == TENANT_COLUMN {
            let reason = format!("the pool form has a column {} of its own in every table", quoted(name));
            self.refuse(0, RefusalKind::TenantColumn, reason);
        }
    }
}

/// Whether a new column is `NOT NULL` and nothing says what it holds in the rows
/// that are there.
fn must_be_given(column: &ColumnDef) -> bool {
    let kinds: Vec<_> =
        column.constraints.iter().filter_map(as_constraint).map(|inner| inner.contype).collect();
    let has = |kind: ConstrType| kinds.contains(&(kind as i32));
    let type_name = column.type_name.as_ref().map(|name| last_name(&name.names)).unwrap_or_default();
    has(ConstrType::ConstrNotnull)
        && !has(ConstrType::ConstrDefault)
        && !has(ConstrType::ConstrIdentity)
        && !has(ConstrType::ConstrGenerated)
        && !type_name.contains("serial")
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
    // A partition that is attached gets the foreign keys of its table, and one
    // that is detached must not be what a foreign key points at.
    let asks = [
        AlterTableType::AtValidateConstraint,
        AlterTableType::AtAttachPartition,
        AlterTableType::AtDetachPartition,
    ];
    adds_foreign_key || asks.iter().any(|kind| cmd.subtype == *kind as i32)
}

fn is_foreign_key(inner: &Constraint) -> bool {
    inner.contype == ConstrType::ConstrForeign as i32
}
