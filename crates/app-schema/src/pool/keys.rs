//! Keys in the pool form: the tenant's column comes first in every primary
//! key, unique constraint and foreign key, under the name that the key would
//! have without it.

use pg_query::Node;
use pg_query::protobuf::{ConstrType, Constraint};

use super::Rewriter;
use super::ast::{TENANT_COLUMN, constraint, json, string, strings, texts};
use super::model::{self, calls_of};
use crate::facts::{Facts, column_names};
use crate::refusal::RefusalKind;

/// Of keys of one statement that say the same PostgreSQL makes one, with the
/// name that any of them has (transformIndexConstraints of
/// src/backend/parser/parse_utilcmd.c).
fn merge_repeated_keys(constraints: Vec<Constraint>) -> Vec<Constraint> {
    let mut merged: Vec<Constraint> = Vec::with_capacity(constraints.len());
    for inner in constraints {
        let is_key = inner.contype == ConstrType::ConstrPrimary as i32
            || inner.contype == ConstrType::ConstrUnique as i32;
        let says_the_same = |prior: &&mut Constraint| {
            is_key
                && prior.contype != ConstrType::ConstrForeign as i32
                && !prior.keys.is_empty()
                && texts(&prior.keys) == texts(&inner.keys)
                && texts(&prior.including) == texts(&inner.including)
                && prior.nulls_not_distinct == inner.nulls_not_distinct
                && (prior.deferrable, prior.initdeferred) == (inner.deferrable, inner.initdeferred)
        };
        match merged.iter_mut().find(says_the_same) {
            Some(prior) if prior.conname.is_empty() => prior.conname = inner.conname,
            Some(_) => {}
            None => merged.push(inner),
        }
    }
    merged
}

impl Rewriter<'_> {
    /// The constraints of a table in the pool form, the primary key first, as
    /// PostgreSQL names that first as well.
    pub(super) fn table_constraints(&mut self, table: &str, constraints: Vec<Constraint>) -> Vec<Node> {
        let rank = |inner: &Constraint| match ConstrType::try_from(inner.contype) {
            Ok(ConstrType::ConstrPrimary) => 0,
            Ok(ConstrType::ConstrUnique) => 1,
            _ => 2,
        };
        let mut constraints = constraints;
        constraints.sort_by_key(rank);
        merge_repeated_keys(constraints)
            .into_iter()
            .filter_map(|inner| self.table_constraint(table, inner))
            .map(constraint)
            .collect()
    }

    /// One constraint of a table in the pool form; none where it says nothing
    /// new, or is refused.
    pub(super) fn table_constraint(&mut self, table: &str, inner: Constraint) -> Option<Constraint> {
        match ConstrType::try_from(inner.contype) {
            Ok(ConstrType::ConstrPrimary | ConstrType::ConstrUnique) => self.key(table, inner),
            Ok(ConstrType::ConstrForeign) => self.foreign_key(table, inner),
            Ok(ConstrType::ConstrCheck) => {
                let calls = calls_of(&Facts::of(&json(&inner)));
                self.note_expression(table, format!("a check of {table}"), calls);
                if !inner.conname.is_empty() {
                    let columns = column_names(&json(&inner));
                    self.note_constraint(table, &inner.conname, model::Constraint::Check { columns });
                }
                Some(inner)
            }
            Ok(ConstrType::ConstrExclusion) => {
                let reason =
                    "an EXCLUDE constraint would hold between tenants, and tell one of the other's rows";
                self.refuse(inner.location, RefusalKind::Constraint, reason);
                None
            }
            _ => {
                self.refuse(inner.location, RefusalKind::Constraint, "this kind of constraint is not known");
                None
            }
        }
    }

    fn note_constraint(&mut self, table: &str, name: &str, constraint: model::Constraint) {
        if let Some(table) = self.model.tables.get_mut(table) {
            table.constraints.insert(name.to_owned(), constraint);
        }
    }

    fn key(&mut self, table: &str, mut inner: Constraint) -> Option<Constraint> {
        let is_primary = inner.contype == ConstrType::ConstrPrimary as i32;
        if inner.without_overlaps || !inner.indexspace.is_empty() {
            let reason = "WITHOUT OVERLAPS and tablespaces are not supported in a pool";
            self.refuse(inner.location, RefusalKind::Constraint, reason);
            return None;
        }
        if !inner.indexname.is_empty() {
            return self.key_from_index(table, inner, is_primary);
        }
        let columns = texts(&inner.keys);
        if inner.conname.is_empty() {
            let (parts, label) = if is_primary { (Vec::new(), "pkey") } else { (columns.clone(), "key") };
            let with_included =
                [parts, if is_primary { Vec::new() } else { texts(&inner.including) }].concat();
            inner.conname = self.model.free_key_name(table, &with_included.join("_"), label);
        }
        inner.keys.insert(0, string(TENANT_COLUMN));
        let including = texts(&inner.including);
        let index = self.model.naming([columns.clone(), including.clone()].concat().join("_"));
        let key = model::Constraint::Key { is_primary, columns, including, index };
        self.note_constraint(table, &inner.conname, key);
        Some(inner)
    }

    /// `ADD CONSTRAINT … USING INDEX`: the index has the tenant's column.
    fn key_from_index(&mut self, table: &str, inner: Constraint, is_primary: bool) -> Option<Constraint> {
        let Some(index) = self.model.indexes.remove(&inner.indexname) else {
            let reason = format!("the app schema has no index {}", inner.indexname);
            self.refuse(inner.location, RefusalKind::UnknownObject, reason);
            return None;
        };
        let name = if inner.conname.is_empty() { &inner.indexname } else { &inner.conname };
        let including = index.uses.iter().filter(|column| !index.columns.contains(column)).cloned().collect();
        let key =
            model::Constraint::Key { is_primary, columns: index.columns, including, index: index.naming };
        self.note_constraint(table, name, key);
        Some(inner)
    }

    fn foreign_key(&mut self, table: &str, mut inner: Constraint) -> Option<Constraint> {
        let refusals = self.refusals.len();
        let columns = texts(&inner.fk_attrs);
        let references = inner.pktable.as_ref().map(|relation| relation.relname.clone()).unwrap_or_default();
        let referenced = if inner.pk_attrs.is_empty() {
            self.primary_key_of(&references, inner.location)
        } else {
            texts(&inner.pk_attrs)
        };
        self.refuse_foreign_key_forms(&inner, columns.len());
        let is_partitioned = self.model.tables.get(table).is_some_and(|known| known.is_partitioned);
        if is_partitioned && matches!(inner.fk_del_action.as_str(), "n" | "d") {
            let reason = "ON DELETE SET NULL and SET DEFAULT on a partitioned table need a list of columns in a pool, and \
                PostgreSQL carries the list over to the partitions by number, which can be another column there: use a \
                trigger";
            self.refuse(inner.location, RefusalKind::Constraint, reason);
        }
        if self.refusals.len() > refusals {
            return None;
        }
        // With one column, FULL and SIMPLE mean the same; with the tenant's
        // column beside it, FULL would forbid the null.
        "s".clone_into(&mut inner.fk_matchtype);
        let set_columns = texts(&inner.fk_del_set_cols);
        let sets = matches!(inner.fk_del_action.as_str(), "n" | "d");
        if sets && set_columns.is_empty() {
            inner.fk_del_set_cols = strings(&columns);
        }
        let sets_default =
            if inner.fk_del_action == "d" { texts(&inner.fk_del_set_cols) } else { Vec::new() };
        let cascades = sets || inner.fk_del_action == "c" || inner.fk_upd_action == "c";
        if inner.conname.is_empty() {
            inner.conname = self.model.free_foreign_key_name(table, &columns.join("_"));
        }
        inner.fk_attrs.insert(0, string(TENANT_COLUMN));
        inner.pk_attrs = strings(&referenced);
        inner.pk_attrs.insert(0, string(TENANT_COLUMN));
        let noted = model::Constraint::ForeignKey { columns, references, referenced, cascades, sets_default };
        self.note_constraint(table, &inner.conname, noted);
        Some(inner)
    }

    fn primary_key_of(&mut self, table: &str, location: i32) -> Vec<String> {
        let Some(known) = self.model.tables.get(table) else {
            let reason = format!("it references {table}, which the app schema does not have");
            self.refuse(location, RefusalKind::UnknownObject, reason);
            return Vec::new();
        };
        let Some(key) = known.primary_key() else {
            let reason = format!("it references {table}, which has no primary key: name the columns");
            self.refuse(location, RefusalKind::UnknownObject, reason);
            return Vec::new();
        };
        key.to_vec()
    }

    fn refuse_foreign_key_forms(&mut self, inner: &Constraint, columns: usize) {
        if matches!(inner.fk_upd_action.as_str(), "n" | "d") {
            let reason = "ON UPDATE SET NULL and SET DEFAULT would set the tenant's column as well: PostgreSQL \
                takes a list of columns for ON DELETE alone";
            self.refuse(inner.location, RefusalKind::Constraint, reason);
        }
        if inner.fk_matchtype == "f" && columns > 1 {
            let reason = "MATCH FULL over several columns cannot be kept beside the tenant's column: use MATCH \
                SIMPLE and a check that all are null or none";
            self.refuse(inner.location, RefusalKind::Constraint, reason);
        }
        if inner.fk_with_period || inner.pk_with_period {
            self.refuse(inner.location, RefusalKind::Constraint, "PERIOD is not supported in a pool");
        }
    }
}
