//! What the app schema holds after the statements so far, as far as the pool
//! form has to know it: keys for foreign keys to point at, names that are
//! taken, and what the definitions call.

use std::collections::{BTreeMap, BTreeSet};

use pg_query::Node;

use crate::facts::Facts;
use crate::names::free_name;
use crate::pool::PoolShape;

/// A name that an expression may call as a function.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Called {
    pub(crate) name: String,
    /// It stands behind a dot, and is a function only if there is one.
    pub(crate) is_field: bool,
}

pub(crate) type Calls = BTreeSet<Called>;

/// What a tree calls.
pub(crate) fn calls_of(facts: &Facts) -> Calls {
    let functions = facts.functions.iter().map(|call| Called { name: call.name.clone(), is_field: false });
    let fields = facts.fields.iter().map(|name| Called { name: name.clone(), is_field: true });
    functions.chain(fields).collect()
}

/// An expression that is part of a definition, and what it calls.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Expression {
    /// Words for a person: `the check of t`.
    pub(crate) what: String,
    pub(crate) calls: Calls,
}

#[derive(Debug, Clone)]
pub(crate) struct Column {
    pub(crate) name: String,
    /// The last part of its type's name.
    pub(crate) type_name: String,
    /// Of the type smallint, whose ids would run out for all tenants at once.
    pub(crate) is_smallint: bool,
    pub(crate) default: Calls,
}

#[derive(Debug, Clone)]
pub(crate) enum Constraint {
    /// A primary key or unique constraint; its columns without the tenant's.
    Key {
        is_primary: bool,
        columns: Vec<String>,
        including: Vec<String>,
        index: Naming,
    },
    ForeignKey {
        columns: Vec<String>,
        references: String,
        /// The columns there, without the tenant's.
        referenced: Vec<String>,
        /// A change of the referenced row changes or deletes this table's rows.
        cascades: bool,
        /// The columns that a change sets to their defaults.
        sets_default: Vec<String>,
    },
    Check {
        columns: BTreeSet<String>,
    },
}

/// How the index of a partitioned table is copied to its partitions.
#[derive(Debug, Clone, Default)]
pub(crate) struct Naming {
    /// The names of its columns when it was made, as they go into the names of
    /// the copies. Renaming a column later does not change them.
    pub(crate) columns: String,
    /// Indexes are copied in the order in which they were made.
    pub(crate) order: u64,
    /// The index of the partitioned table above that it belongs to.
    pub(crate) parent: Option<String>,
}

#[derive(Debug, Clone)]
pub(crate) struct Trigger {
    pub(crate) function: String,
    /// Fires before an update or a delete.
    pub(crate) is_before_change: bool,
    /// Fires for a delete.
    pub(crate) is_on_delete: bool,
    pub(crate) when: Calls,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Table {
    pub(crate) columns: Vec<Column>,
    pub(crate) constraints: BTreeMap<String, Constraint>,
    pub(crate) triggers: BTreeMap<String, Trigger>,
    pub(crate) expressions: Vec<Expression>,
    /// A column was added later and so stands behind the tenant's.
    pub(crate) has_columns_behind_tenant: bool,
    pub(crate) is_partitioned: bool,
    /// The table that it is a partition of.
    pub(crate) partition_of: Option<String>,
}

impl Table {
    pub(crate) fn primary_key(&self) -> Option<&[String]> {
        self.constraints.values().find_map(|constraint| match constraint {
            Constraint::Key { is_primary: true, columns, .. } => Some(columns.as_slice()),
            _ => None,
        })
    }

    /// Whether one of its own foreign keys changes or deletes rows here.
    pub(crate) fn has_cascading_key(&self) -> bool {
        self.constraints
            .values()
            .any(|constraint| matches!(constraint, Constraint::ForeignKey { cascades: true, .. }))
    }

    pub(crate) fn column_mut(&mut self, name: &str) -> Option<&mut Column> {
        self.columns.iter_mut().find(|column| column.name == name)
    }

    pub(crate) fn is_smallint(&self, name: &str) -> bool {
        self.columns.iter().any(|column| column.name == name && column.is_smallint)
    }

    /// Forgets a column with everything that PostgreSQL drops together with it.
    pub(crate) fn drop_column(&mut self, name: &str) {
        self.columns.retain(|column| column.name != name);
        self.constraints.retain(|_, constraint| match constraint {
            Constraint::Key { columns, including, .. } => {
                !columns.iter().chain(including.iter()).any(|column| column == name)
            }
            Constraint::ForeignKey { columns, .. } => !columns.iter().any(|column| column == name),
            Constraint::Check { columns } => !columns.contains(name),
        });
    }

    pub(crate) fn rename_column(&mut self, from: &str, to: &str) {
        let rename = |column: &mut String| {
            if column == from {
                to.clone_into(column);
            }
        };
        self.columns.iter_mut().for_each(|column| rename(&mut column.name));
        for constraint in self.constraints.values_mut() {
            match constraint {
                Constraint::Key { columns, including, .. } => {
                    columns.iter_mut().chain(including).for_each(rename);
                }
                Constraint::ForeignKey { columns, sets_default, .. } => {
                    columns.iter_mut().chain(sets_default).for_each(rename);
                }
                Constraint::Check { columns } => rename_in(columns, from, to),
            }
        }
    }
}

fn rename_in(names: &mut BTreeSet<String>, from: &str, to: &str) {
    if names.remove(from) {
        names.insert(to.to_owned());
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Index {
    pub(crate) table: String,
    /// Plain columns, without the tenant's.
    pub(crate) columns: Vec<String>,
    /// Every column that it names, also in expressions and conditions.
    pub(crate) uses: BTreeSet<String>,
    /// What it is apart from its name and table, to find its equal.
    pub(crate) definition: String,
    pub(crate) naming: Naming,
    /// Its first column is the tenant's, so that it serves the policy.
    pub(crate) is_tenant_first: bool,
    pub(crate) expression: Expression,
}

#[derive(Debug, Clone)]
pub(crate) struct Function {
    /// Types of the arguments by which PostgreSQL tells it from its namesakes.
    pub(crate) arguments: Vec<Node>,
    /// The same as text.
    pub(crate) signature: String,
    pub(crate) is_trigger: bool,
    pub(crate) calls: Calls,
    /// What shows that it may touch a table.
    pub(crate) touches_table: Option<String>,
    /// What shows that it may run SQL made of text.
    pub(crate) beyond_static: Option<String>,
    /// Its search path is fixed.
    pub(crate) is_pinned: bool,
}

/// The app schema so far.
#[derive(Debug, Clone, Default)]
pub(crate) struct Model {
    pub(crate) tables: BTreeMap<String, Table>,
    /// Views, and what they call.
    pub(crate) views: BTreeMap<String, View>,
    /// Sequences, and the table and column that each belongs to.
    pub(crate) sequences: BTreeMap<String, Option<(String, String)>>,
    pub(crate) indexes: BTreeMap<String, Index>,
    pub(crate) composites: BTreeSet<String>,
    pub(crate) enums: BTreeSet<String>,
    pub(crate) domains: BTreeMap<String, Vec<Expression>>,
    pub(crate) functions: BTreeMap<String, Vec<Function>>,
    /// How many indexes were made so far.
    pub(crate) made: u64,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct View {
    pub(crate) calls: Calls,
    /// The relations that it reads.
    pub(crate) reads: BTreeSet<String>,
    /// `INSTEAD OF` triggers.
    pub(crate) triggers: BTreeMap<String, Trigger>,
}

impl Model {
    /// The columns of the primary keys of its tables, without the tenant's.
    pub(crate) fn primary_keys(&self) -> BTreeMap<String, Vec<String>> {
        let of_table = |table: &Table| table.primary_key().map(<[String]>::to_vec).unwrap_or_default();
        let tables = self.tables.iter().map(|(name, table)| (name.clone(), of_table(table)));
        tables.chain(self.views.keys().map(|view| (view.clone(), Vec::new()))).collect()
    }

    /// What it holds, by name.
    pub(crate) fn shape(&self) -> PoolShape {
        let types = self.composites.iter().chain(&self.enums).chain(self.domains.keys());
        PoolShape {
            tables: self.tables.keys().cloned().collect(),
            views: self.views.keys().cloned().collect(),
            functions: self.functions.keys().cloned().collect(),
            types: types.cloned().collect(),
        }
    }

    pub(crate) fn is_relation(&self, name: &str) -> bool {
        self.tables.contains_key(name)
            || self.views.contains_key(name)
            || self.sequences.contains_key(name)
            || self.indexes.contains_key(name)
            || self.composites.contains(name)
            || self.key_owner(name).is_some()
    }

    /// The table that has a primary key or unique constraint of this name.
    pub(crate) fn key_owner(&self, name: &str) -> Option<&str> {
        let has = |table: &Table| matches!(table.constraints.get(name), Some(Constraint::Key { .. }));
        self.tables.iter().find(|(_, table)| has(table)).map(|(owner, _)| owner.as_str())
    }

    pub(crate) fn is_constraint(&self, name: &str) -> bool {
        self.tables.values().any(|table| table.constraints.contains_key(name))
    }

    /// The name that PostgreSQL would give to a primary key or unique
    /// constraint.
    pub(crate) fn free_key_name(&self, table: &str, columns: &str, label: &str) -> String {
        free_name(table, columns, label, |name| self.is_relation(name) || self.is_constraint(name))
    }

    /// The name that PostgreSQL would give to an index or sequence.
    pub(crate) fn free_relation_name(&self, table: &str, columns: &str, label: &str) -> String {
        free_name(table, columns, label, |name| self.is_relation(name))
    }

    /// The name that PostgreSQL would give to a foreign key.
    pub(crate) fn free_foreign_key_name(&self, table: &str, columns: &str) -> String {
        free_name(table, columns, "fkey", |name| self.is_constraint(name))
    }

    /// The name of an index that is made next.
    pub(crate) fn naming(&mut self, columns: String) -> Naming {
        self.made += 1;
        Naming { columns, order: self.made, parent: None }
    }

    /// Whether some index or key of the table starts with the tenant's column.
    pub(crate) fn has_tenant_index(&self, name: &str) -> bool {
        let has_key = self.tables.get(name).is_some_and(|table| {
            table.constraints.values().any(|constraint| matches!(constraint, Constraint::Key { .. }))
        });
        has_key || self.indexes.values().any(|index| index.table == name && index.is_tenant_first)
    }

    pub(crate) fn rename_table(&mut self, from: &str, to: &str) {
        let Some(table) = self.tables.remove(from) else { return };
        self.tables.insert(to.to_owned(), table);
        for index in self.indexes.values_mut().filter(|index| index.table == from) {
            to.clone_into(&mut index.table);
        }
        for (table, _) in self.sequences.values_mut().flatten().filter(|(table, _)| table == from) {
            to.clone_into(table);
        }
        for view in self.views.values_mut() {
            rename_in(&mut view.reads, from, to);
        }
        for table in self.tables.values_mut() {
            if table.partition_of.as_deref() == Some(from) {
                table.partition_of = Some(to.to_owned());
            }
            for constraint in table.constraints.values_mut() {
                if let Constraint::ForeignKey { references, .. } = constraint
                    && references == from
                {
                    to.clone_into(references);
                }
            }
        }
    }

    /// Renames a column here, in the partitions, and where foreign keys point.
    pub(crate) fn rename_column(&mut self, table: &str, from: &str, to: &str) {
        for name in self.with_partitions(table) {
            self.rename_own_column(&name, from, to);
        }
    }

    fn rename_own_column(&mut self, name: &str, from: &str, to: &str) {
        if let Some(table) = self.tables.get_mut(name) {
            table.rename_column(from, to);
        }
        for index in self.indexes.values_mut().filter(|index| index.table == name) {
            for column in index.columns.iter_mut().filter(|column| *column == from) {
                to.clone_into(column);
            }
            rename_in(&mut index.uses, from, to);
        }
        for owned in self.sequences.values_mut().flatten() {
            if owned.0 == name && owned.1 == from {
                to.clone_into(&mut owned.1);
            }
        }
        for constraint in self.tables.values_mut().flat_map(|table| table.constraints.values_mut()) {
            if let Constraint::ForeignKey { references, referenced, .. } = constraint
                && references == name
            {
                for column in referenced.iter_mut().filter(|column| *column == from) {
                    to.clone_into(column);
                }
            }
        }
    }
}
