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
    },
    ForeignKey {
        columns: Vec<String>,
        references: String,
        /// A change of the referenced row changes or deletes this table's rows.
        cascades: bool,
        /// The columns that a change sets to their defaults.
        sets_default: Vec<String>,
    },
    Check,
}

#[derive(Debug, Clone)]
pub(crate) struct Trigger {
    pub(crate) function: String,
    /// Fires before an update or a delete.
    pub(crate) is_before_change: bool,
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
}

impl Table {
    pub(crate) fn primary_key(&self) -> Option<&[String]> {
        self.constraints.values().find_map(|constraint| match constraint {
            Constraint::Key { is_primary: true, columns } => Some(columns.as_slice()),
            _ => None,
        })
    }

    /// Whether a change of another table's row changes or deletes rows here.
    pub(crate) fn is_cascaded_to(&self) -> bool {
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
            Constraint::Key { columns, .. } | Constraint::ForeignKey { columns, .. } => {
                !columns.iter().any(|column| column == name)
            }
            Constraint::Check => true,
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
                Constraint::Key { columns, .. } => columns.iter_mut().for_each(rename),
                Constraint::ForeignKey { columns, sets_default, .. } => {
                    columns.iter_mut().for_each(rename);
                    sets_default.iter_mut().for_each(rename);
                }
                Constraint::Check => {}
            }
        }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Index {
    pub(crate) table: String,
    /// Plain columns, without the tenant's.
    pub(crate) columns: Vec<String>,
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
    pub(crate) views: BTreeMap<String, Calls>,
    pub(crate) sequences: BTreeSet<String>,
    pub(crate) indexes: BTreeMap<String, Index>,
    pub(crate) composites: BTreeSet<String>,
    pub(crate) enums: BTreeSet<String>,
    pub(crate) domains: BTreeMap<String, Vec<Expression>>,
    pub(crate) functions: BTreeMap<String, Vec<Function>>,
}

impl Model {
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

    fn is_relation(&self, name: &str) -> bool {
        self.tables.contains_key(name)
            || self.views.contains_key(name)
            || self.sequences.contains(name)
            || self.indexes.contains_key(name)
            || self.composites.contains(name)
            || self
                .tables
                .values()
                .any(|table| matches!(table.constraints.get(name), Some(Constraint::Key { .. })))
    }

    fn is_constraint(&self, name: &str) -> bool {
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

    /// Whether some index or key of the table starts with the tenant's column.
    pub(crate) fn has_tenant_index(&self, name: &str) -> bool {
        let has_key = self.tables.get(name).is_some_and(|table| {
            table.constraints.values().any(|constraint| matches!(constraint, Constraint::Key { .. }))
        });
        has_key || self.indexes.values().any(|index| index.table == name && index.is_tenant_first)
    }

    pub(crate) fn drop_table(&mut self, name: &str) {
        self.tables.remove(name);
        self.indexes.retain(|_, index| index.table != name);
        let own_sequences = format!("{name}_");
        self.sequences
            .retain(|sequence| !(sequence.starts_with(&own_sequences) && sequence.ends_with("_seq")));
        for table in self.tables.values_mut() {
            table.constraints.retain(|_, constraint| {
                !matches!(constraint, Constraint::ForeignKey { references, .. } if references == name)
            });
        }
    }

    pub(crate) fn drop_column(&mut self, table: &str, column: &str) {
        if let Some(table) = self.tables.get_mut(table) {
            table.drop_column(column);
        }
        self.indexes
            .retain(|_, index| index.table != table || !index.columns.iter().any(|name| name == column));
    }

    pub(crate) fn rename_table(&mut self, from: &str, to: &str) {
        let Some(table) = self.tables.remove(from) else { return };
        self.tables.insert(to.to_owned(), table);
        for index in self.indexes.values_mut().filter(|index| index.table == from) {
            to.clone_into(&mut index.table);
        }
        for table in self.tables.values_mut() {
            for constraint in table.constraints.values_mut() {
                if let Constraint::ForeignKey { references, .. } = constraint
                    && references == from
                {
                    to.clone_into(references);
                }
            }
        }
    }

    pub(crate) fn rename_column(&mut self, table: &str, from: &str, to: &str) {
        if let Some(table) = self.tables.get_mut(table) {
            table.rename_column(from, to);
        }
        for index in self.indexes.values_mut().filter(|index| index.table == table) {
            for column in index.columns.iter_mut().filter(|column| *column == from) {
                to.clone_into(column);
            }
        }
    }
}
