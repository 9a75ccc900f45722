//! What PostgreSQL drops together with something else, so that the names that
//! are free, and what definitions call, stay true.

use super::model::{Called, Calls, Constraint, Model};

impl Model {
    /// Forgets a table with its partitions, and whatever refers to them.
    pub(crate) fn drop_table(&mut self, name: &str) {
        for dropped in self.with_partitions(name) {
            let above = self.above(&dropped);
            self.tables.remove(&dropped);
            self.indexes.retain(|_, index| index.table != dropped);
            self.sequences.retain(|_, owner| owner.as_ref().is_none_or(|(table, _)| *table != dropped));
            for table in self.tables.values_mut() {
                table.constraints.retain(|_, constraint| match constraint {
                    Constraint::ForeignKey { references, .. } => {
                        *references != dropped && !above.contains(references)
                    }
                    _ => true,
                });
            }
            self.drop_readers(&dropped);
        }
    }

    /// Forgets the views that read a relation, and those that read them.
    pub(crate) fn drop_readers(&mut self, relation: &str) {
        let readers = self.views.iter().filter(|(_, view)| view.reads.contains(relation));
        let readers: Vec<String> = readers.map(|(name, _)| name.clone()).collect();
        for reader in readers {
            self.views.remove(&reader);
            self.drop_readers(&reader);
        }
    }

    /// Forgets a column with everything that PostgreSQL drops together with it.
    pub(crate) fn drop_column(&mut self, table: &str, column: &str) {
        for name in self.with_partitions(table) {
            if let Some(table) = self.tables.get_mut(&name) {
                table.drop_column(column);
            }
            self.indexes.retain(|_, index| index.table != name || !index.uses.contains(column));
            self.sequences.retain(|_, owner| {
                owner.as_ref().is_none_or(|(table, owned)| *table != name || owned != column)
            });
            self.drop_references(&name, |referenced| referenced.iter().any(|name| name == column));
        }
    }

    fn drop_references(&mut self, to: &str, points: impl Fn(&[String]) -> bool) {
        for table in self.tables.values_mut() {
            table.constraints.retain(|_, constraint| match constraint {
                Constraint::ForeignKey { references, referenced, .. } => {
                    references != to || !points(referenced)
                }
                _ => true,
            });
        }
    }

    /// Forgets a constraint here and in the partitions, and the foreign keys
    /// that need it.
    pub(crate) fn drop_constraint(&mut self, table: &str, name: &str, cascade: bool) {
        let dropped = self.tables.get_mut(table).and_then(|known| known.constraints.remove(name));
        let Some(dropped) = dropped else { return };
        match dropped {
            Constraint::Key { columns, .. } => {
                if cascade {
                    let mut columns = columns;
                    columns.sort_unstable();
                    self.drop_references(table, |referenced| {
                        let mut referenced = referenced.to_vec();
                        referenced.sort_unstable();
                        referenced == columns
                    });
                }
                self.drop_copies(name);
            }
            Constraint::ForeignKey { .. } | Constraint::Check { .. } => {
                for child in self.partitions(table) {
                    self.drop_constraint(&child, name, cascade);
                }
            }
        }
    }

    /// Forgets the indexes of partitions that belong to one of their parent.
    pub(crate) fn drop_copies(&mut self, parent: &str) {
        for copy in self.copies(parent) {
            self.indexes.remove(&copy);
            if let Some(owner) = self.key_owner(&copy).map(str::to_owned)
                && let Some(table) = self.tables.get_mut(&owner)
            {
                table.constraints.remove(&copy);
            }
            self.drop_copies(&copy);
        }
    }

    /// Forgets a type, and with `CASCADE` the columns that have it.
    pub(crate) fn drop_type(&mut self, name: &str, cascade: bool) {
        self.composites.remove(name);
        self.enums.remove(name);
        self.domains.remove(name);
        if !cascade {
            return;
        }
        let typed = self.tables.iter().flat_map(|(table, known)| {
            let columns = known.columns.iter().filter(|column| column.type_name == name);
            columns.map(|column| (table.clone(), column.name.clone()))
        });
        for (table, column) in typed.collect::<Vec<_>>() {
            self.drop_column(&table, &column);
        }
    }

    /// Forgets that definitions call a function which is gone: PostgreSQL drops
    /// no function that anything still calls, or drops the caller as well.
    pub(crate) fn drop_calls(&mut self, function: &str) {
        let forget = |calls: &mut Calls| {
            calls.remove(&Called { name: function.to_owned(), is_field: false });
            calls.remove(&Called { name: function.to_owned(), is_field: true });
        };
        for table in self.tables.values_mut() {
            table.expressions.iter_mut().for_each(|expression| forget(&mut expression.calls));
            table.columns.iter_mut().for_each(|column| forget(&mut column.default));
            table.triggers.retain(|_, trigger| trigger.function != function);
            table.triggers.values_mut().for_each(|trigger| forget(&mut trigger.when));
        }
        self.indexes.values_mut().for_each(|index| forget(&mut index.expression.calls));
        self.domains.values_mut().flatten().for_each(|expression| forget(&mut expression.calls));
        for view in self.views.values_mut() {
            forget(&mut view.calls);
            view.triggers.retain(|_, trigger| trigger.function != function);
        }
    }
}
