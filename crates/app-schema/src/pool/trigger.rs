//! Triggers in the pool form. They stay as they are; what their functions may
//! do is a matter of proof.

use pg_query::protobuf::CreateTrigStmt;

use super::ast::{json, last_name};
use super::model::{Calls, Trigger, calls_of};
use super::{Rewriter, Runs};
use crate::builtins::TRIGGERS;
use crate::facts::Facts;
use crate::refusal::RefusalKind;

/// Bits of PostgreSQL's pg_trigger.tgtype.
const BEFORE: i32 = 1 << 1;
const DELETE: i32 = 1 << 3;
const UPDATE: i32 = 1 << 4;

impl Rewriter<'_> {
    pub(super) fn create_trigger(&mut self, create: &CreateTrigStmt) {
        let Some(relation) = &create.relation else { return };
        let function = last_name(&create.funcname);
        let known = self.model.functions.get(&function);
        if !known.is_some_and(|all| all.iter().any(|f| f.is_trigger))
            && !TRIGGERS.contains(&function.as_str())
        {
            let reason = format!("the app schema has no trigger function {function}");
            self.refuse(relation.location, RefusalKind::UnknownObject, reason);
            return;
        }
        let when =
            create.when_clause.as_ref().map_or_else(Calls::new, |when| calls_of(&Facts::of(&json(when))));
        let is_before_change = create.timing & BEFORE != 0 && create.events & (UPDATE | DELETE) != 0;
        let is_on_delete = create.events & DELETE != 0;
        let trigger = Trigger { function, is_before_change, is_on_delete, when };
        if let Some(table) = self.model.tables.get_mut(&relation.relname) {
            table.triggers.insert(create.trigname.clone(), trigger);
        } else if let Some(view) = self.model.views.get_mut(&relation.relname) {
            view.triggers.insert(create.trigname.clone(), trigger);
        } else {
            let reason = format!("the app schema has no table or view {}", relation.relname);
            self.refuse(relation.location, RefusalKind::UnknownObject, reason);
        }
        self.emit_unchanged(Runs::Owner);
    }
}
