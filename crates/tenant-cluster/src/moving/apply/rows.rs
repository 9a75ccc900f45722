//! Changes of rows as they come, given to a session at the target.

use std::collections::HashMap;

use super::super::pgoutput::{Cell, Change};
use super::fault::StreamFault;
use super::layout::Relation;
use super::target::Target;

/// What the source has said of tables, by the numbers that it has for them. One
/// that cannot be applied ends the stream with its first row.
pub(super) type Relations = HashMap<u32, Result<Relation, StreamFault>>;

/// Gives a change of rows to a session.
pub(super) fn apply(target: &mut Target, relations: &Relations, change: Change) -> Result<(), StreamFault> {
    let relation = |id: u32| {
        let unknown = || StreamFault::Refused("the source has sent a row of an unknown table".to_owned());
        relations.get(&id).cloned().unwrap_or_else(|| Err(unknown()))
    };
    match change {
        Change::Insert { relation: id, new } => {
            let relation = relation(id)?;
            let new = fitted(&relation, new, target)?;
            target.insert(relation.table, &new);
        }
        Change::Update { relation: id, old, new } => {
            let relation = relation(id)?;
            let new = fitted(&relation, new, target)?;
            let old = old.map(|old| fitted(&relation, old, target)).transpose()?;
            target.update(relation.table, old.as_deref(), &new);
        }
        Change::Delete { relation: id, old } => {
            let relation = relation(id)?;
            let old = fitted(&relation, old, target)?;
            target.delete(relation.table, &old);
        }
        Change::Truncate(ids) => {
            let tables = ids.into_iter().map(|id| Ok(relation(id)?.table));
            let tables: Vec<usize> = tables.collect::<Result<_, StreamFault>>()?;
            target.truncate(&tables);
        }
        _ => {}
    }
    Ok(())
}

/// A row without the tenant's column, as wide as the table.
fn fitted(relation: &Relation, mut row: Vec<Cell>, target: &Target) -> Result<Vec<Cell>, StreamFault> {
    if let Some(position) = relation.tenant.filter(|position| *position < row.len()) {
        row.remove(position);
    }
    if row.len() == target.width(relation.table) {
        return Ok(row);
    }
    Err(StreamFault::Refused("the source has sent a row of another width".to_owned()))
}
