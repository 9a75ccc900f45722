//! Partitioned tables in the pool form: what PostgreSQL copies from a
//! partitioned table to its partitions, under which names. In the pool the
//! copies' names would have the tenant's column in them, so that they are
//! renamed to what they are called in the plain form.

use std::collections::BTreeSet;

use pg_query::protobuf::{CreateStmt, PartitionCmd};
use pg_query::{Node, NodeEnum};

use super::ast::{TENANT_COLUMN, json, quoted};
use super::model::{Constraint, Model, Naming, Table, calls_of};
use super::{Rewriter, Runs};
use crate::facts::Facts;
use crate::names::free_name;
use crate::refusal::RefusalKind;

/// The index of a partition: as PostgreSQL calls it in the pool, and as it is
/// called in the plain form.
#[derive(Debug)]
struct Copy {
    made_as: String,
    name: String,
}

/// What one statement has made so far.
#[derive(Debug, Default)]
struct Made {
    /// Under these names in the pool.
    in_pool: BTreeSet<String>,
    /// And these in the plain form, which the pool's are renamed to behind it.
    names: BTreeSet<String>,
}

impl Model {
    /// The partitions of a table, of the first level.
    pub(crate) fn partitions(&self, table: &str) -> Vec<String> {
        let is_own = |known: &Table| known.partition_of.as_deref() == Some(table);
        self.tables.iter().filter(|(_, known)| is_own(known)).map(|(name, _)| name.clone()).collect()
    }

    /// A table and all partitions below it.
    pub(crate) fn with_partitions(&self, table: &str) -> Vec<String> {
        let mut all = vec![table.to_owned()];
        let mut done = 0;
        while let Some(name) = all.get(done).cloned() {
            all.extend(self.partitions(&name));
            done += 1;
        }
        all
    }

    /// The partitioned tables above a table, the nearest first.
    pub(crate) fn above(&self, table: &str) -> Vec<String> {
        let mut all = Vec::new();
        let mut at = table.to_owned();
        while let Some(parent) = self.tables.get(&at).and_then(|known| known.partition_of.clone()) {
            all.push(parent.clone());
            at = parent;
        }
        all
    }

    /// Whether a change of another table's row changes or deletes rows here.
    /// PostgreSQL copies foreign keys and triggers along the partitions.
    pub(crate) fn is_cascaded_to(&self, table: &str) -> bool {
        let root = self.above(table).pop().unwrap_or_else(|| table.to_owned());
        let mut tree = self.with_partitions(&root).into_iter();
        tree.any(|name| self.tables.get(&name).is_some_and(Table::has_cascading_key))
    }

    /// The indexes and keys of partitions that belong to one of their parent.
    pub(crate) fn copies(&self, parent: &str) -> Vec<String> {
        let is_copy = |naming: &Naming| naming.parent.as_deref() == Some(parent);
        let indexes = self.indexes.iter().filter(|(_, index)| is_copy(&index.naming));
        let keys =
            self.tables.values().flat_map(|table| &table.constraints).filter(
                |(_, constraint)| matches!(constraint, Constraint::Key { index, .. } if is_copy(index)),
            );
        indexes.map(|(name, _)| name.clone()).chain(keys.map(|(name, _)| name.clone())).collect()
    }

    fn naming_mut(&mut self, name: &str) -> Option<&mut Naming> {
        if let Some(index) = self.indexes.get_mut(name) {
            return Some(&mut index.naming);
        }
        self.tables.values_mut().find_map(|table| match table.constraints.get_mut(name) {
            Some(Constraint::Key { index, .. }) => Some(index),
            _ => None,
        })
    }

    /// `ALTER INDEX parent ATTACH PARTITION child`.
    pub(crate) fn attach_index(&mut self, parent: &str, child: &str) {
        if let Some(naming) = self.naming_mut(child) {
            naming.parent = Some(parent.to_owned());
        }
    }

    /// The indexes of a table, keys and others, in the order they were made.
    fn indexes_in_order(&self, table: &str) -> Vec<String> {
        let keys = self.tables.get(table).into_iter().flat_map(|known| &known.constraints);
        let keys = keys.filter_map(|(name, constraint)| match constraint {
            Constraint::Key { index, .. } => Some((index.order, name)),
            _ => None,
        });
        let own = self.indexes.iter().filter(|(_, index)| index.table == table);
        let mut all: Vec<_> = keys.chain(own.map(|(name, index)| (index.naming.order, name))).collect();
        all.sort();
        all.into_iter().map(|(_, name)| name.clone()).collect()
    }

    /// Copies one index of a partitioned table to one partition, unless the
    /// partition has its equal. `made` are the names that the statement at hand
    /// has given in the pool so far.
    fn copy_index(&mut self, parent: &str, partition: &str, made: &mut Made) -> Option<Copy> {
        if let Some(equal) = self.equal_index(parent, partition) {
            self.attach_index(parent, &equal);
            return None;
        }
        if let Some(mut index) = self.indexes.get(parent).cloned() {
            let (plain, shared) = names_of_columns(&index.naming, index.is_tenant_first);
            let made_as = self.free_name_in_pool(partition, &shared, "idx", made);
            let name = self.free_relation_name(partition, &plain, "idx");
            made.names.insert(name.clone());
            index.naming = Naming { parent: Some(parent.to_owned()), ..self.naming(plain) };
            partition.clone_into(&mut index.table);
            self.indexes.insert(name.clone(), index);
            return Some(Copy { made_as, name });
        }
        let owner = self.key_owner(parent)?.to_owned();
        let Some(Constraint::Key { is_primary, columns, including, index }) =
            self.tables.get(&owner)?.constraints.get(parent).cloned()
        else {
            return None;
        };
        let (plain, shared) = if is_primary { Default::default() } else { names_of_columns(&index, true) };
        let label = if is_primary { "pkey" } else { "key" };
        let made_as = self.free_name_in_pool(partition, &shared, label, made);
        let name = self.free_key_name(partition, &plain, label);
        made.names.insert(name.clone());
        let index = Naming { parent: Some(parent.to_owned()), ..self.naming(index.columns) };
        let copy = Constraint::Key { is_primary, columns, including, index };
        self.tables.get_mut(partition)?.constraints.insert(name.clone(), copy);
        Some(Copy { made_as, name })
    }

    fn free_name_in_pool(&self, table: &str, columns: &str, label: &str, made: &mut Made) -> String {
        let is_taken = |name: &str| {
            let was_there = self.is_relation(name) || (label != "idx" && self.is_constraint(name));
            made.in_pool.contains(name) || (was_there && !made.names.contains(name))
        };
        let name = free_name(table, columns, label, is_taken);
        made.in_pool.insert(name.clone());
        name
    }

    /// An index of the partition that PostgreSQL takes for the parent's.
    fn equal_index(&self, parent: &str, partition: &str) -> Option<String> {
        if let Some(index) = self.indexes.get(parent) {
            let mut own = self.indexes.iter().filter(|(_, own)| own.table == partition);
            let is_equal = |own: &super::model::Index| {
                own.naming.parent.is_none() && own.definition == index.definition && own.uses == index.uses
            };
            return own.find(|(_, own)| is_equal(own)).map(|(name, _)| name.clone());
        }
        let owner = self.key_owner(parent)?;
        let Some(Constraint::Key { is_primary, columns, including, .. }) =
            self.tables.get(owner)?.constraints.get(parent)
        else {
            return None;
        };
        let is_equal = |own: &Constraint| {
            matches!(own, Constraint::Key { is_primary: p, columns: c, including: i, index }
                if p == is_primary && c == columns && i == including && index.parent.is_none())
        };
        let mut own = self.tables.get(partition)?.constraints.iter();
        own.find(|(_, own)| is_equal(own)).map(|(name, _)| name.clone())
    }

    /// Copies foreign keys and checks of a partitioned table to a partition.
    pub(crate) fn copy_constraints(&mut self, parent: &str, partition: &str) {
        let Some(above) = self.tables.get(parent).map(|known| known.constraints.clone()) else { return };
        for (name, constraint) in above {
            let Some(own) = self.tables.get(partition).map(|known| &known.constraints) else { return };
            let is_there = own.values().any(|own| match (own, &constraint) {
                (
                    Constraint::ForeignKey { columns: a, references: b, .. },
                    Constraint::ForeignKey { columns, references, .. },
                ) => a == columns && b == references,
                _ => false,
            });
            let copied_name = match &constraint {
                Constraint::Key { .. } => continue,
                Constraint::ForeignKey { .. } if is_there => continue,
                Constraint::ForeignKey { columns, .. } if own.contains_key(&name) => {
                    self.free_foreign_key_name(partition, &columns.join("_"))
                }
                _ => name,
            };
            if let Some(table) = self.tables.get_mut(partition) {
                table.constraints.insert(copied_name, constraint);
            }
        }
    }

    /// An index of a partitioned table has another name.
    pub(crate) fn rename_parent(&mut self, from: &str, to: &str) {
        for copy in self.copies(from) {
            self.attach_index(to, &copy);
        }
    }

    fn detach(&mut self, partition: &str) {
        if let Some(table) = self.tables.get_mut(partition) {
            table.partition_of = None;
        }
        for index in self.indexes_in_order(partition) {
            if let Some(naming) = self.naming_mut(&index) {
                naming.parent = None;
            }
        }
    }
}

/// The names of an index's columns for the name of a copy, in the plain form
/// and in the pool. An index on the tenant's column alone is the pool's own.
fn names_of_columns(naming: &Naming, is_tenant_first: bool) -> (String, String) {
    let plain = naming.columns.clone();
    if plain == TENANT_COLUMN || !is_tenant_first {
        return (plain.clone(), plain);
    }
    let shared = format!("{TENANT_COLUMN}_{plain}");
    (plain, shared)
}

impl Rewriter<'_> {
    /// `CREATE TABLE … PARTITION OF …`: the columns, the tenant's among them,
    /// come from the table above; row-level security does not.
    pub(super) fn create_partition(&mut self, create: &CreateStmt, name: &str) {
        let Some(Some(NodeEnum::RangeVar(above))) = create.inh_relations.first().map(|node| &node.node)
        else {
            return;
        };
        let parent = above.relname.clone();
        let Some(known) = self.model.tables.get(&parent).filter(|known| known.is_partitioned).cloned() else {
            let reason = format!("the app schema has no partitioned table {parent}");
            self.refuse(above.location, RefusalKind::UnknownObject, reason);
            return;
        };
        let table = Table { partition_of: Some(parent.clone()), ..Table::default() };
        self.model.tables.insert(name.to_owned(), table);
        self.model.copy_constraints(&parent, name);
        self.copy_indexes(&parent, name);
        let (mut elements, moved) = self.table_elements(create, name);
        self.inherit_columns(name, &known);
        elements.extend(self.table_constraints(name, moved));
        self.note_partitioning(create, name);
        self.emit_tree(
            NodeEnum::CreateStmt(CreateStmt { table_elts: elements, ..create.clone() }),
            Runs::Owner,
        );
        self.protect_table(name);
    }

    /// The columns of the table above, with the defaults that are given here.
    fn inherit_columns(&mut self, name: &str, above: &Table) {
        let Some(table) = self.model.tables.get_mut(name) else { return };
        let given = std::mem::take(&mut table.columns);
        table.columns.clone_from(&above.columns);
        table.has_columns_behind_tenant = above.has_columns_behind_tenant;
        for column in given {
            if let Some(inherited) = table.column_mut(&column.name)
                && !column.default.is_empty()
            {
                inherited.default = column.default;
            }
        }
    }

    /// Notes that a table is partitioned, and what its partition key calls: it
    /// is evaluated by whoever writes a row, and so also in a cascade.
    pub(super) fn note_partitioning(&mut self, create: &CreateStmt, name: &str) {
        for tree in [create.partspec.as_ref().map(json), create.partbound.as_ref().map(json)] {
            let Some(tree) = tree else { continue };
            let calls = calls_of(&Facts::of(&tree));
            self.note_expression(name, format!("the partitioning of {name}"), calls);
        }
        if let Some(table) = self.model.tables.get_mut(name) {
            table.is_partitioned = create.partspec.is_some();
        }
    }

    /// Copies all indexes of a partitioned table to a partition.
    fn copy_indexes(&mut self, parent: &str, partition: &str) {
        let mut made = Made::default();
        let mut copies = Vec::new();
        for index in self.model.indexes_in_order(parent) {
            copies.extend(self.model.copy_index(&index, partition, &mut made));
        }
        self.rename_copies(copies);
        for below in self.model.partitions(partition) {
            self.copy_indexes(partition, &below);
        }
    }

    /// Copies a new index of a table to the partitions that it has.
    pub(super) fn copy_index_down(&mut self, table: &str, index: &str) {
        for partition in self.model.partitions(table) {
            let copy = self.model.copy_index(index, &partition, &mut Made::default());
            self.rename_copies(copy);
            for copied in self.model.copies(index) {
                let is_there = self.model.indexes_in_order(&partition).contains(&copied);
                if is_there {
                    self.copy_index_down(&partition, &copied);
                }
            }
        }
    }

    /// Copies a new foreign key or check of a table to its partitions.
    pub(super) fn copy_constraints_down(&mut self, table: &str) {
        for partition in self.model.partitions(table) {
            self.model.copy_constraints(table, &partition);
            self.copy_constraints_down(&partition);
        }
    }

    /// The last first: a copy without the tenant's column may have been given the
    /// name that one before it is to have.
    fn rename_copies(&mut self, copies: impl IntoIterator<Item = Copy, IntoIter: DoubleEndedIterator>) {
        let copies = copies.into_iter().rev().filter(|copy| copy.made_as != copy.name);
        self.renames.extend(copies.map(|copy| {
            format!("ALTER INDEX IF EXISTS {} RENAME TO {}", quoted(&copy.made_as), quoted(&copy.name))
        }));
    }

    /// `ALTER TABLE … ATTACH PARTITION`.
    pub(super) fn attach_partition(&mut self, parent: &str, partition: &PartitionCmd) -> bool {
        let Some(name) = self.known_partition(partition) else { return false };
        if let Some(table) = self.model.tables.get_mut(&name) {
            table.partition_of = Some(parent.to_owned());
        }
        self.model.copy_constraints(parent, &name);
        self.copy_constraints_down(&name);
        self.copy_indexes(parent, &name);
        let calls = partition.bound.as_ref().map(|bound| calls_of(&Facts::of(&json(bound))));
        self.note_expression(parent, format!("the partitioning of {parent}"), calls.unwrap_or_default());
        true
    }

    /// `ALTER TABLE … DETACH PARTITION`.
    pub(super) fn detach_partition(&mut self, partition: &PartitionCmd) -> bool {
        let Some(name) = self.known_partition(partition) else { return false };
        self.model.detach(&name);
        true
    }

    fn known_partition(&mut self, partition: &PartitionCmd) -> Option<String> {
        let relation = partition.name.as_ref()?;
        if self.model.tables.contains_key(&relation.relname) {
            return Some(relation.relname.clone());
        }
        let reason = format!("the app schema has no table {}", relation.relname);
        self.refuse(relation.location, RefusalKind::UnknownObject, reason);
        None
    }
}

/// The partition that a command is about.
pub(super) fn partition_of(def: Option<&Node>) -> Option<&PartitionCmd> {
    match def?.node.as_ref()? {
        NodeEnum::PartitionCmd(partition) => Some(partition),
        _ => None,
    }
}
