//! What must be proved of the functions that definitions call.
//!
//! PostgreSQL runs some code of an app schema as the owner of the tables and
//! without row-level security: in a foreign key's cascade the `BEFORE`
//! triggers, checks, generated columns and index expressions of the changed
//! table, since PostgreSQL 18 its `AFTER` triggers as well (as the owner, under
//! forced row-level security). So whatever may run there must touch no table,
//! no trigger may make SQL out of text, and the search path must be fixed, as
//! a tenant could else put a type of its own in the way of a type's name.

use std::collections::{BTreeMap, BTreeSet};

use crate::builtins::{RUNS_TEXT, TABLE_FREE, reaches_tables};
use crate::pool::model::{Called, Calls, Constraint, Model, Table, Trigger};
use crate::refusal::RefusalKind;

/// How much has to be proved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    /// Reads and writes no table.
    TableFree,
    /// Runs no SQL made of text, and no definitions.
    Static,
}

/// Something that has to be proved.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Obligation {
    pub(crate) kind: RefusalKind,
    /// Words for a person: `the trigger a of t`.
    pub(crate) what: String,
    /// Why it has to be proved.
    why: &'static str,
    level: Level,
    calls: Calls,
}

impl Obligation {
    /// Whether it calls a function by this name.
    pub(crate) fn mentions(&self, name: &str) -> bool {
        self.calls.iter().any(|call| call.name == name)
    }
}

const AS_OWNER: &str = "PostgreSQL may run it as the owner of the tables, without row-level security";
const AS_OWNER_IN_CASCADE: &str = "in a foreign key's cascade PostgreSQL runs it as the owner of the tables, \
    without row-level security: make it an AFTER trigger, or leave the tables out of it";
const TRIGGER: &str = "a cascade may run it as the owner of the tables: write the statements out";

impl Model {
    /// Everything that has to be proved of the app schema so far.
    pub(crate) fn obligations(&self) -> Vec<Obligation> {
        let tables = self
            .tables
            .iter()
            .flat_map(|(name, table)| obligations_of_table(name, table, self.is_cascaded_to(name)));
        let indexes = self.indexes.values().map(|index| &index.expression);
        let domains = self.domains.values().flatten();
        let expressions = indexes.chain(domains).map(|expression| Obligation {
            kind: RefusalKind::Expression,
            what: expression.what.clone(),
            why: AS_OWNER,
            level: Level::TableFree,
            calls: expression.calls.clone(),
        });
        let views =
            self.views.iter().flat_map(|(name, view)| obligations_of_triggers(name, &view.triggers, false));
        tables.chain(expressions).chain(views).collect()
    }

    /// Proves an obligation, or says why it does not hold.
    pub(crate) fn prove(&self, obligation: &Obligation) -> Result<(), String> {
        self.prove_calls(&obligation.calls, obligation.level, &mut BTreeSet::new()).map_err(|reason| {
            format!("{} cannot be proved safe in a pool: {reason}; {}", obligation.what, obligation.why)
        })
    }

    fn prove_calls(&self, calls: &Calls, level: Level, seen: &mut BTreeSet<String>) -> Result<(), String> {
        for Called { name, is_field } in calls {
            let functions = self.functions.get(name);
            // PostgreSQL chooses between functions of one name by the types of the
            // arguments, so that its own may be meant beside the app schema's.
            if !is_field && (functions.is_none() || reaches_tables(name)) {
                prove_builtin(name, level)?;
            }
            let Some(functions) = functions else { continue };
            // Behind a dot, a function is called with the row as its argument.
            let mut meant =
                functions.iter().filter(|function| !is_field || !function.arguments.is_empty()).peekable();
            if meant.peek().is_none() || !seen.insert(name.clone()) {
                continue;
            }
            for function in meant {
                let shown = match level {
                    Level::TableFree => &function.touches_table,
                    Level::Static => &function.beyond_static,
                };
                if let Some(reason) = shown {
                    return Err(format!("of the function {name}, {reason}"));
                }
                self.prove_calls(&function.calls, level, seen)?;
            }
        }
        Ok(())
    }

    /// Proves that a data statement runs no SQL made of text, wherever it leads:
    /// through its own calls, views and defaults (and triggers, which are proved
    /// in any case).
    pub(crate) fn prove_data(&self, calls: &Calls) -> Result<(), String> {
        let defaults =
            self.tables.values().flat_map(|table| table.columns.iter().map(|column| &column.default));
        let mut seen = BTreeSet::new();
        let views = self.views.values().map(|view| &view.calls);
        for calls in defaults.chain(views).chain([calls]) {
            self.prove_calls(calls, Level::Static, &mut seen)?;
        }
        Ok(())
    }

    /// The app schema's own functions that may run as the owner of the tables.
    pub(crate) fn functions_run_as_owner(&self) -> BTreeSet<String> {
        let mut reached = BTreeSet::new();
        let triggers =
            self.functions.iter().filter(|(_, all)| all.iter().any(|function| function.is_trigger));
        let mut open: Vec<String> = triggers.map(|(name, _)| name.clone()).collect();
        for obligation in self.obligations() {
            open.extend(obligation.calls.into_iter().map(|call| call.name));
        }
        while let Some(name) = open.pop() {
            let Some(functions) = self.functions.get(&name) else { continue };
            if reached.insert(name) {
                open.extend(
                    functions.iter().flat_map(|function| function.calls.iter().map(|call| call.name.clone())),
                );
            }
        }
        reached
    }
}

fn obligations_of_table(name: &str, table: &Table, is_cascaded_to: bool) -> Vec<Obligation> {
    let mut obligations: Vec<Obligation> = Vec::new();
    let mut expression = |what: String, calls: &Calls| {
        let (kind, level) = (RefusalKind::Expression, Level::TableFree);
        obligations.push(Obligation { kind, what, why: AS_OWNER, level, calls: calls.clone() });
    };
    for own in &table.expressions {
        expression(own.what.clone(), &own.calls);
    }
    for constraint in table.constraints.values() {
        let Constraint::ForeignKey { sets_default, .. } = constraint else { continue };
        for column in table.columns.iter().filter(|column| sets_default.contains(&column.name)) {
            expression(format!("the default of {name}.{}", column.name), &column.default);
        }
    }
    obligations.extend(obligations_of_triggers(name, &table.triggers, is_cascaded_to));
    obligations
}

fn obligations_of_triggers(
    name: &str,
    triggers: &BTreeMap<String, Trigger>,
    is_cascaded_to: bool,
) -> Vec<Obligation> {
    let conditions = triggers.iter().map(|(trigger_name, trigger)| Obligation {
        kind: RefusalKind::Expression,
        what: format!("the condition of the trigger {trigger_name} of {name}"),
        why: AS_OWNER,
        level: Level::TableFree,
        calls: trigger.when.clone(),
    });
    let mut obligations: Vec<Obligation> = conditions.collect();
    for (trigger_name, trigger) in triggers {
        let in_cascade = trigger.is_before_change && is_cascaded_to;
        let (level, why) =
            if in_cascade { (Level::TableFree, AS_OWNER_IN_CASCADE) } else { (Level::Static, TRIGGER) };
        let function = Called { name: trigger.function.clone(), is_field: false };
        obligations.push(Obligation {
            kind: RefusalKind::Trigger,
            what: format!("the trigger {trigger_name} of {name}"),
            why,
            level,
            calls: Calls::from([function]),
        });
    }
    obligations
}

fn prove_builtin(name: &str, level: Level) -> Result<(), String> {
    let is_trigger = crate::builtins::TRIGGERS.contains(&name);
    match level {
        Level::TableFree if is_trigger || TABLE_FREE.binary_search(&name).is_ok() => Ok(()),
        Level::TableFree => Err(format!("{name} is not known to touch no table")),
        Level::Static if RUNS_TEXT.contains(&name) => {
            Err(format!("{name} runs SQL that it is handed as text"))
        }
        Level::Static => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_of_builtins_can_be_searched() {
        assert!(TABLE_FREE.is_sorted());
        assert!(RUNS_TEXT.iter().all(|name| TABLE_FREE.binary_search(name).is_err()));
    }
}
