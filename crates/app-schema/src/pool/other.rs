//! Views, types, domains, sequences and extensions in the pool form; drops,
//! renames and comments; and the kinds of statements that a pool refuses.

use std::collections::BTreeMap;

use pg_query::protobuf::{
    AlterDomainStmt, AlterSeqStmt, CommentStmt, CompositeTypeStmt, CreateDomainStmt, CreateEnumStmt,
    CreateExtensionStmt, CreateSeqStmt, CreateStatsStmt, DefElem, DefElemAction, DropBehavior, DropStmt,
    ObjectType, RenameStmt, ViewStmt,
};
use pg_query::{Node, NodeEnum};

use super::ast::{json, last_name, node, quoted, string, texts};
use super::model::{Expression, Trigger, calls_of};
use super::{EXTENSION_SCHEMA, Rewriter, Runs};
use crate::facts::Facts;
use crate::plain::is_true;
use crate::refusal::RefusalKind;

impl Rewriter<'_> {
    pub(super) fn create_view(&mut self, create: &ViewStmt) {
        let Some(relation) = &create.view else { return };
        if relation.relpersistence == "t" {
            self.refuse(
                relation.location,
                RefusalKind::TableKind,
                "a temporary view would outlive the version",
            );
            return;
        }
        let mut view = create.clone();
        for option in create.options.iter().filter_map(as_option) {
            if option.defname == "security_invoker" && !is_true(option) {
                let reason = "a view without security_invoker shows all tenants' rows: leave the option out";
                self.refuse(relation.location, RefusalKind::RowSecurity, reason);
            }
        }
        view.options
            .retain(|option| as_option(option).is_none_or(|option| option.defname != "security_invoker"));
        view.options.push(invoker_option());
        let facts = Facts::of(&json(&create.query));
        let noted = self.model.views.entry(relation.relname.clone()).or_default();
        noted.calls = calls_of(&facts);
        noted.reads = facts.relations.into_iter().map(|relation| relation.name).collect();
        self.emit_tree(NodeEnum::ViewStmt(Box::new(view)), Runs::Owner);
    }

    pub(super) fn create_composite(&mut self, create: &CompositeTypeStmt) {
        if let Some(relation) = &create.typevar {
            self.model.composites.insert(relation.relname.clone());
        }
        self.emit_unchanged(Runs::Owner);
    }

    pub(super) fn create_enum(&mut self, create: &CreateEnumStmt) {
        self.model.enums.insert(last_name(&create.type_name));
        self.emit_unchanged(Runs::Owner);
    }

    pub(super) fn create_domain(&mut self, create: &CreateDomainStmt) {
        self.note_domain(&last_name(&create.domainname), &json(create));
        self.emit_unchanged(Runs::Owner);
    }

    pub(super) fn alter_domain(&mut self, alter: &AlterDomainStmt) {
        self.note_domain(&last_name(&alter.type_name), &json(alter));
        self.emit_unchanged(Runs::Owner);
    }

    fn note_domain(&mut self, name: &str, tree: &serde_json::Value) {
        let expression = Expression {
            what: format!("an expression of the domain {name}"),
            calls: calls_of(&Facts::of(tree)),
        };
        self.model.domains.entry(name.to_owned()).or_default().push(expression);
    }

    pub(super) fn create_sequence(&mut self, create: &CreateSeqStmt) {
        let Some(sequence) = &create.sequence else { return };
        if sequence.relpersistence != "p" {
            let reason = "a sequence in a pool is neither temporary nor unlogged";
            self.refuse(sequence.location, RefusalKind::Sequence, reason);
            return;
        }
        self.model.sequences.insert(sequence.relname.clone(), None);
        self.note_sequence_options(&sequence.relname, &create.options);
        self.emit_unchanged(Runs::Owner);
    }

    /// `OWNED BY` and `AS`.
    fn note_sequence_options(&mut self, sequence: &str, options: &[Node]) {
        for option in options.iter().filter_map(as_option) {
            match (option.defname.as_str(), option.arg.as_ref().and_then(|arg| arg.node.as_ref())) {
                ("owned_by", Some(NodeEnum::List(list))) => {
                    let owner = match texts(&list.items).as_slice() {
                        [.., table, column] => Some((table.clone(), column.clone())),
                        _ => None,
                    };
                    self.model.sequences.insert(sequence.to_owned(), owner);
                }
                ("as", Some(NodeEnum::TypeName(name))) if last_name(&name.names) == "int2" => {
                    self.refuse_small_ids(option.location);
                }
                _ => {}
            }
        }
    }

    pub(super) fn alter_sequence(&mut self, alter: &AlterSeqStmt) {
        self.refuse_restart(&alter.options);
        if let Some(sequence) = &alter.sequence
            && self.model.sequences.contains_key(&sequence.relname)
        {
            self.note_sequence_options(&sequence.relname, &alter.options);
        }
        self.emit_unchanged(Runs::Owner);
    }

    pub(super) fn refuse_restart(&mut self, options: &[Node]) {
        for option in options.iter().filter_map(as_option).filter(|option| option.defname == "restart") {
            let reason =
                "all tenants of a pool draw from one sequence: restarting it would give their ids again";
            self.refuse(option.location, RefusalKind::Sequence, reason);
        }
    }

    pub(super) fn create_extension(&mut self, create: &CreateExtensionStmt) {
        let sql =
            format!("CREATE EXTENSION IF NOT EXISTS {} SCHEMA {EXTENSION_SCHEMA}", quoted(&create.extname));
        self.emit(sql, Runs::Admin);
    }

    /// Statistics help the planner alone. Those on an expression are gathered by
    /// calling it, as the owner of the table.
    pub(super) fn create_statistics(&mut self, create: &CreateStatsStmt) {
        for node in &create.relations {
            let Some(NodeEnum::RangeVar(relation)) = &node.node else { continue };
            let calls = calls_of(&Facts::of(&json(&create.exprs)));
            let what = format!("the statistics on {}", relation.relname);
            self.note_expression(&relation.relname, what, calls);
        }
        self.emit_unchanged(Runs::Owner);
    }

    pub(super) fn drop_objects(&mut self, drop: &DropStmt) {
        use ObjectType as T;
        let kind = T::try_from(drop.remove_type);
        let names: Vec<Vec<String>> = drop.objects.iter().map(parts_of_object).collect();
        for parts in &names {
            let Some(name) = parts.last() else { continue };
            match (kind, parts.as_slice()) {
                (Ok(T::ObjectTable), _) => self.model.drop_table(name),
                (Ok(T::ObjectView), _) => {
                    self.model.views.remove(name);
                    self.model.drop_readers(name);
                }
                (Ok(T::ObjectIndex), _) => self.drop_index(name, drop.missing_ok),
                (Ok(T::ObjectSequence), _) => {
                    self.model.sequences.remove(name);
                }
                (Ok(T::ObjectType | T::ObjectDomain), _) => {
                    self.model.drop_type(name, drop.behavior == DropBehavior::DropCascade as i32);
                }
                (
                    Ok(
                        T::ObjectFunction
                        | T::ObjectProcedure
                        | T::ObjectRoutine
                        | T::ObjectStatisticExt
                        | T::ObjectCollation,
                    ),
                    _,
                ) => {}
                (Ok(T::ObjectTrigger), [.., relation, trigger]) => {
                    if let Some(triggers) = self.triggers_mut(relation) {
                        triggers.remove(trigger);
                    }
                }
                _ => {
                    self.refuse(0, RefusalKind::NotSupported, "a pool has nothing of this kind to drop");
                    return;
                }
            }
        }
        if matches!(kind, Ok(T::ObjectFunction | T::ObjectProcedure | T::ObjectRoutine)) {
            self.drop_functions(drop);
        }
        self.emit_unchanged(Runs::Owner);
    }

    fn triggers_mut(&mut self, relation: &str) -> Option<&mut BTreeMap<String, Trigger>> {
        if let Some(table) = self.model.tables.get_mut(relation) {
            return Some(&mut table.triggers);
        }
        self.model.views.get_mut(relation).map(|view| &mut view.triggers)
    }

    fn drop_index(&mut self, name: &str, may_be_missing: bool) {
        self.model.drop_copies(name);
        if self.model.indexes.remove(name).is_none() && !may_be_missing {
            let reason = format!("the app schema has no index {name}");
            self.refuse(0, RefusalKind::UnknownObject, reason);
        }
    }

    fn drop_functions(&mut self, drop: &DropStmt) {
        for object in &drop.objects {
            let Some(NodeEnum::ObjectWithArgs(function)) = &object.node else { continue };
            let name = last_name(&function.objname);
            let signature = super::function::signature_of(&function.objargs);
            let Some(all) = self.model.functions.get_mut(&name) else { continue };
            all.retain(|known| !function.args_unspecified && known.signature != signature);
            if all.is_empty() {
                self.model.functions.remove(&name);
                self.model.drop_calls(&name);
            }
        }
    }

    pub(super) fn rename(&mut self, rename: &RenameStmt) {
        use ObjectType as T;
        let relation = rename.relation.as_ref().map(|relation| relation.relname.clone()).unwrap_or_default();
        let (from, to) = (rename.subname.as_str(), rename.newname.as_str());
        match T::try_from(rename.rename_type) {
            Ok(T::ObjectTable | T::ObjectView | T::ObjectIndex | T::ObjectSequence) => {
                self.rename_relation(&relation, to);
            }
            Ok(T::ObjectColumn) => {
                self.refuse_tenant_name(to);
                self.refuse_tenant_name(from);
                self.model.rename_column(&relation, from, to);
            }
            Ok(T::ObjectTabconstraint) => self.rename_constraint(&relation, from, to),
            Ok(T::ObjectTrigger) => {
                if let Some(triggers) = self.triggers_mut(&relation)
                    && let Some(trigger) = triggers.remove(from)
                {
                    triggers.insert(to.to_owned(), trigger);
                }
            }
            Ok(T::ObjectFunction | T::ObjectProcedure | T::ObjectRoutine) => self.rename_function(rename),
            Ok(T::ObjectType | T::ObjectDomain) => self.rename_type(rename),
            Ok(T::ObjectAttribute | T::ObjectDomconstraint | T::ObjectStatisticExt | T::ObjectCollation) => {}
            _ => {
                self.refuse(0, RefusalKind::NotSupported, "a pool has nothing of this kind to rename");
                return;
            }
        }
        self.emit_unchanged(Runs::Owner);
    }

    /// `ALTER TABLE … RENAME TO` takes the name of any relation.
    fn rename_relation(&mut self, from: &str, to: &str) {
        if self.model.tables.contains_key(from) {
            self.model.rename_table(from, to);
        } else if let Some(index) = self.model.indexes.remove(from) {
            self.model.indexes.insert(to.to_owned(), index);
            self.model.rename_parent(from, to);
        } else if let Some(view) = self.model.views.remove(from) {
            self.model.views.insert(to.to_owned(), view);
            for view in self.model.views.values_mut().filter(|view| view.reads.contains(from)) {
                view.reads.insert(to.to_owned());
            }
        } else if let Some(owner) = self.model.sequences.remove(from) {
            self.model.sequences.insert(to.to_owned(), owner);
        } else {
            let Some(table) = self.model.key_owner(from).map(str::to_owned) else {
                self.refuse(0, RefusalKind::UnknownObject, format!("the app schema has no {from}"));
                return;
            };
            self.rename_constraint(&table, from, to);
        }
    }

    fn rename_function(&mut self, rename: &RenameStmt) {
        let Some(NodeEnum::ObjectWithArgs(function)) =
            rename.object.as_ref().and_then(|node| node.node.as_ref())
        else {
            return;
        };
        let name = last_name(&function.objname);
        let Some(mut all) = self.model.functions.remove(&name) else { return };
        let signature = super::function::signature_of(&function.objargs);
        let is_meant =
            |known: &super::model::Function| function.args_unspecified || known.signature == signature;
        let renamed: Vec<_> = all.extract_if(.., |known| is_meant(known)).collect();
        if !all.is_empty() {
            self.model.functions.insert(name.clone(), all);
        }
        if renamed.iter().any(|known| known.is_trigger) {
            for table in self.model.tables.values_mut() {
                for trigger in table.triggers.values_mut().filter(|trigger| trigger.function == name) {
                    rename.newname.clone_into(&mut trigger.function);
                }
            }
            for view in self.model.views.values_mut() {
                for trigger in view.triggers.values_mut().filter(|trigger| trigger.function == name) {
                    rename.newname.clone_into(&mut trigger.function);
                }
            }
        } else if self.model.obligations().iter().any(|obligation| obligation.mentions(&name)) {
            let reason = format!("definitions call {name}: drop it and create it anew under the new name");
            self.refuse(0, RefusalKind::Function, reason);
        }
        self.model.functions.entry(rename.newname.clone()).or_default().extend(renamed);
    }

    fn rename_type(&mut self, rename: &RenameStmt) {
        let from = rename.object.as_deref().map(parts_of_object).and_then(|parts| parts.last().cloned());
        let Some(from) = from else { return };
        for column in self.model.tables.values_mut().flat_map(|table| &mut table.columns) {
            if column.type_name == from {
                rename.newname.clone_into(&mut column.type_name);
            }
        }
        if self.model.composites.remove(&from) {
            self.model.composites.insert(rename.newname.clone());
        }
        if self.model.enums.remove(&from) {
            self.model.enums.insert(rename.newname.clone());
        }
        if let Some(domain) = self.model.domains.remove(&from) {
            self.model.domains.insert(rename.newname.clone(), domain);
        }
    }

    pub(super) fn comment(&mut self, comment: &CommentStmt) {
        use ObjectType as T;
        match T::try_from(comment.objtype) {
            Ok(
                T::ObjectTable
                | T::ObjectColumn
                | T::ObjectIndex
                | T::ObjectView
                | T::ObjectSequence
                | T::ObjectType
                | T::ObjectDomain
                | T::ObjectFunction
                | T::ObjectProcedure
                | T::ObjectRoutine
                | T::ObjectTrigger
                | T::ObjectTabconstraint
                | T::ObjectDomconstraint
                | T::ObjectStatisticExt
                | T::ObjectCollation,
            ) => self.emit_unchanged(Runs::Owner),
            _ => self.refuse(0, RefusalKind::NotSupported, "a pool has nothing of this kind to comment on"),
        }
    }

    /// Refuses a kind of statement that a pool cannot take.
    pub(super) fn refuse_kind(&mut self, refused: &NodeEnum) {
        let (kind, reason) = match refused {
            NodeEnum::CreateTableAsStmt(create) if create.objtype == ObjectType::ObjectMatview as i32 => (
                RefusalKind::TableKind,
                "a materialized view has no row-level security and would show all tenants' rows: use a view, or a \
                 table that a trigger keeps",
            ),
            NodeEnum::CreateTableAsStmt(_) => {
                self.refuse_select_into();
                return;
            }
            NodeEnum::RefreshMatViewStmt(_) => (RefusalKind::TableKind, "a pool has no materialized views"),
            NodeEnum::RuleStmt(_) => (
                RefusalKind::RowSecurity,
                "a rule rewrites statements with the rights of its owner: use a trigger",
            ),
            NodeEnum::CreatePolicyStmt(_) | NodeEnum::AlterPolicyStmt(_) => (
                RefusalKind::RowSecurity,
                "row-level security keeps the tenants of a pool apart and is Insula's: put your conditions in views",
            ),
            NodeEnum::LockStmt(_) => {
                (RefusalKind::DataStatement, "a lock on a table of a pool would hold up all tenants")
            }
            NodeEnum::DefineStmt(_) | NodeEnum::CreateCastStmt(_) | NodeEnum::CreateRangeStmt(_) => (
                RefusalKind::NotSupported,
                "operators, casts, aggregates and range types can stand for functions that a proof does \
                 not see: they are not supported in a pool",
            ),
            _ => (RefusalKind::NotSupported, "this kind of statement is not supported in a pool"),
        };
        self.refuse(0, kind, reason);
    }
}

fn as_option(node: &Node) -> Option<&DefElem> {
    match node.node.as_ref()? {
        NodeEnum::DefElem(option) => Some(option),
        _ => None,
    }
}

fn invoker_option() -> Node {
    node(NodeEnum::DefElem(Box::new(DefElem {
        defname: "security_invoker".to_owned(),
        arg: Some(Box::new(string("true"))),
        defaction: DefElemAction::DefelemUnspec as i32,
        ..DefElem::default()
    })))
}

/// The parts of the name in a DROP or RENAME: a list, a type name, or a string.
fn parts_of_object(object: &Node) -> Vec<String> {
    match &object.node {
        Some(NodeEnum::List(list)) => texts(&list.items),
        Some(NodeEnum::TypeName(type_name)) => texts(&type_name.names),
        Some(NodeEnum::String(text)) => vec![text.sval.clone()],
        Some(NodeEnum::ObjectWithArgs(function)) => texts(&function.objname),
        _ => Vec::new(),
    }
}
