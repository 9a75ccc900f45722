//! Data statements in the pool form: each tenant runs them as itself, and row-
//! level security keeps them to its rows. Only `ON CONFLICT (…)` has to name
//! the tenant's column.

use pg_query::NodeEnum;
use pg_query::protobuf::InsertStmt;

use super::model::calls_of;
use super::{Rewriter, Runs};
use crate::facts::Facts;
use crate::refusal::RefusalKind;
use crate::syntax::Statement;
use crate::tokens::widen_on_conflict;

impl Rewriter<'_> {
    pub(super) fn data(&mut self, statement: &Statement) {
        if let NodeEnum::SelectStmt(select) = &statement.node
            && select.into_clause.is_some()
        {
            self.refuse_select_into();
            return;
        }
        if self.take_setval(&statement.node) {
            return;
        }
        let facts = Facts::of(&statement.json);
        if let Some(call) = facts.functions.iter().find(|call| call.name == "setval") {
            let at = call.location.and_then(|at| i32::try_from(at).ok()).unwrap_or(0);
            let reason = "all tenants of a pool draw from one sequence, which none of them may set: write a number, SELECT \
                 setval('name', 1000), or leave setval out";
            self.refuse(at, RefusalKind::Sequence, reason);
        }
        // The session is the administrator's, in the tenant's clothes: SQL made of
        // a tenant's rows could put them off.
        if let Err(reason) = self.model.prove_data(&calls_of(&facts)) {
            let reason = format!("while a version is applied nothing may run SQL made of text, and {reason}");
            self.refuse(0, RefusalKind::DataStatement, reason);
        }
        if let NodeEnum::InsertStmt(insert) = &statement.node {
            self.refuse_unnamed_columns(insert);
        }
        match widen_on_conflict(self.text, facts.conflict_targets) {
            Some(sql) => self.emit(sql, Runs::Tenant),
            None => self.refuse(
                0,
                RefusalKind::DataStatement,
                "its ON CONFLICT cannot be rewritten: name no function \"conflict\" in a join condition",
            ),
        }
    }

    /// The tenant's column stands before columns that were added later, so that
    /// values without names would go to the wrong ones.
    fn refuse_unnamed_columns(&mut self, insert: &InsertStmt) {
        let Some(relation) = &insert.relation else { return };
        let is_shifted =
            self.model.tables.get(&relation.relname).is_some_and(|table| table.has_columns_behind_tenant);
        if is_shifted && insert.cols.is_empty() && insert.select_stmt.is_some() {
            let reason = format!(
                "columns were added to {} after it was created, so that its columns have another order in a pool: \
                 name the columns of the INSERT",
                relation.relname
            );
            self.refuse(relation.location, RefusalKind::DataStatement, reason);
        }
    }

    pub(super) fn refuse_select_into(&mut self) {
        let reason =
            "a table made from a query has no tenant's column: create the table, then INSERT … SELECT";
        self.refuse(0, RefusalKind::TableKind, reason);
    }
}
