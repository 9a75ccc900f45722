//! `TRUNCATE` in a version. It would empty shared tables for all tenants, so
//! that each tenant deletes its own rows instead, where that means the same.

use std::collections::BTreeSet;

use pg_query::NodeEnum;
use pg_query::protobuf::{DropBehavior, TruncateStmt};

use super::ast::quoted;
use super::model::{Constraint, Table};
use super::{Rewriter, Runs};
use crate::refusal::RefusalKind;

impl Rewriter<'_> {
    pub(super) fn truncate(&mut self, truncate: &TruncateStmt) {
        let relations = truncate.relations.iter().filter_map(|node| match node.node.as_ref()? {
            NodeEnum::RangeVar(relation) => Some((relation.relname.clone(), relation.inh)),
            _ => None,
        });
        let relations: Vec<(String, bool)> = relations.collect();
        if let Err((kind, reason)) = self.may_delete_instead(truncate, &relations) {
            self.refuse(0, kind, reason);
            return;
        }
        match self.in_order_of_references(relations) {
            Some(ordered) => {
                for (table, with_partitions) in ordered {
                    let only = if with_partitions { "" } else { "ONLY " };
                    self.emit(format!("DELETE FROM {only}{}", quoted(&table)), Runs::Tenant);
                }
            }
            None => self.refuse(
                0,
                RefusalKind::DataStatement,
                "in a pool TRUNCATE becomes DELETE, and the foreign keys of these tables go round in a circle: delete \
                 their rows yourself",
            ),
        }
    }

    fn may_delete_instead(
        &self,
        truncate: &TruncateStmt,
        relations: &[(String, bool)],
    ) -> Result<(), (RefusalKind, String)> {
        if truncate.restart_seqs {
            let reason = "all tenants of a pool draw from one sequence: leave RESTART IDENTITY out";
            return Err((RefusalKind::Sequence, reason.to_owned()));
        }
        if truncate.behavior == DropBehavior::DropCascade as i32 {
            let reason = "TRUNCATE … CASCADE empties tables that it does not name: name them";
            return Err((RefusalKind::DataStatement, reason.to_owned()));
        }
        let mut emptied = BTreeSet::new();
        for (name, _) in relations {
            if !self.model.tables.contains_key(name) {
                return Err((RefusalKind::UnknownObject, format!("the app schema has no table {name}")));
            }
            emptied.extend(self.model.with_partitions(name));
        }
        for (name, table) in &self.model.tables {
            if emptied.contains(name) && table.triggers.values().any(|trigger| trigger.is_on_delete) {
                let reason = format!(
                    "in a pool TRUNCATE becomes DELETE, and {name} has a trigger that TRUNCATE would not fire: write \
                     DELETE FROM if it may"
                );
                return Err((RefusalKind::DataStatement, reason));
            }
            if !emptied.contains(name) && references(table, |to| emptied.contains(to)) {
                let reason =
                    format!("{name} has a foreign key to what is truncated: name it in the same TRUNCATE");
                return Err((RefusalKind::DataStatement, reason));
            }
        }
        Ok(())
    }

    /// The tables that refer to others come before those.
    fn in_order_of_references(&self, mut open: Vec<(String, bool)>) -> Option<Vec<(String, bool)>> {
        let mut ordered = Vec::with_capacity(open.len());
        while !open.is_empty() {
            let is_referenced = |(name, _): &(String, bool)| {
                let own = self.model.with_partitions(name);
                let mut others = open.iter().filter(|(other, _)| other != name);
                others.any(|(other, _)| {
                    self.model.with_partitions(other).iter().any(|other| {
                        let table = self.model.tables.get(other);
                        table.is_some_and(|table| references(table, |to| own.iter().any(|own| own == to)))
                    })
                })
            };
            let next = open.iter().position(|table| !is_referenced(table))?;
            ordered.push(open.remove(next));
        }
        Some(ordered)
    }
}

fn references(table: &Table, is_meant: impl Fn(&str) -> bool) -> bool {
    table.constraints.values().any(
        |constraint| matches!(constraint, Constraint::ForeignKey { references, .. } if is_meant(references)),
    )
}
