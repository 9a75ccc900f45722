//! What the source's tables looked like when the move began, and whether they
//! still do: at the start by the source's catalogs, and then by every message
//! that says how a table's changes are to be read.

use std::collections::HashMap;

use super::super::pgoutput::RelationMessage;
use super::super::wire::Wire;
use super::super::{MovedTable, Place};
use super::fault::StreamFault;
use crate::literal;

/// The column that shared tables have beside the application's.
const TENANT_COLUMN: &str = "tenant_id";

/// A column: its name, its type's oid, its type's modifier.
type Column = (String, u32, i32);

/// A table as the catalogs have it: all columns, and the application's with
/// their types as PostgreSQL prints them.
type Found = (Vec<Column>, Vec<(String, String)>);

/// What the changes of a table are applied to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Relation {
    /// The number of the table.
    pub table: usize,
    /// Where among the values the tenant's column is.
    pub tenant: Option<usize>,
}

/// The source's tables.
#[derive(Debug)]
pub(super) struct Layout {
    schema: String,
    is_pool_form: bool,
    tables: HashMap<String, (usize, Vec<Column>)>,
}

impl Layout {
    /// Reads the source's catalogs, and compares them with what is moved.
    pub async fn read(wire: &mut Wire, source: &Place, moved: &[MovedTable]) -> Result<Self, StreamFault> {
        let schema = source.placement.schema.to_string();
        let is_pool_form = source.is_pool_form();
        let rows = wire
            .simple(&format!(
                "select c.relname, a.attname, a.atttypid, a.atttypmod, format_type(a.atttypid, a.atttypmod)
                 from pg_class c join pg_attribute a on a.attrelid = c.oid
                 where c.relnamespace = to_regnamespace({}) and c.relkind in ('r', 'p')
                   and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''
                 order by 1, a.attnum",
                literal(&schema)
            ))
            .await?;
        let mut found: HashMap<String, Found> = HashMap::new();
        for row in rows {
            let Ok([Some(table), Some(name), Some(oid), Some(modifier), Some(type_name)]) =
                <[Option<String>; 5]>::try_from(row)
            else {
                return Err(StreamFault::Refused("the source's catalogs cannot be read".to_owned()));
            };
            let (columns, types) = found.entry(table).or_default();
            columns.push((name.clone(), oid.parse().unwrap_or_default(), modifier.parse().unwrap_or(-1)));
            if !(is_pool_form && name == TENANT_COLUMN) {
                types.push((name, type_name));
            }
        }
        let mut tables = HashMap::new();
        for (number, table) in moved.iter().enumerate() {
            let (columns, types) = found.remove(&table.name).unwrap_or_default();
            let expected = table.columns.iter().map(|column| (&column.name, &column.type_name));
            if !expected.eq(types.iter().map(|(name, type_name)| (name, type_name))) {
                return Err(StreamFault::SchemaChanged {
                    table: table.name.clone(),
                    detail: format!("its columns are now {types:?}"),
                });
            }
            tables.insert(table.name.clone(), (number, columns));
        }
        Ok(Self { schema, is_pool_form, tables })
    }

    /// Compares what the stream says of a table.
    pub fn relation(&self, message: &RelationMessage) -> Result<Relation, StreamFault> {
        let changed = |detail: String| StreamFault::SchemaChanged { table: message.name.clone(), detail };
        let known = self.tables.get(&message.name).filter(|_| message.namespace == self.schema);
        let Some((table, columns)) = known else {
            return Err(changed("it was not there, or had another name".to_owned()));
        };
        let now = message
            .columns
            .iter()
            .map(|column| (column.name.as_str(), column.type_oid, column.type_modifier));
        if !now.eq(columns.iter().map(|(name, oid, modifier)| (name.as_str(), *oid, *modifier))) {
            let names: Vec<&str> = message.columns.iter().map(|column| column.name.as_str()).collect();
            return Err(changed(format!("its columns, or their types, are others now: {names:?}")));
        }
        let position = || columns.iter().position(|(name, ..)| name == TENANT_COLUMN);
        Ok(Relation { table: *table, tenant: if self.is_pool_form { position() } else { None } })
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::pgoutput::RelationColumn;
    use super::*;

    fn message(columns: &[(&str, u32)]) -> RelationMessage {
        let column = |(name, type_oid): &(&str, u32)| RelationColumn {
            name: (*name).to_owned(),
            type_oid: *type_oid,
            type_modifier: -1,
        };
        let columns = columns.iter().map(column).collect();
        RelationMessage { id: 1, namespace: "app".to_owned(), name: "a".to_owned(), columns }
    }

    #[test]
    fn every_other_column_name_type_or_order_is_a_change() {
        let columns = vec![("id".to_owned(), 23, -1), (TENANT_COLUMN.to_owned(), 2950, -1)];
        let tables = HashMap::from([("a".to_owned(), (4, columns))]);
        let layout = Layout { schema: "app".to_owned(), is_pool_form: true, tables };
        let same = message(&[("id", 23), (TENANT_COLUMN, 2950)]);
        assert_eq!(layout.relation(&same), Ok(Relation { table: 4, tenant: Some(1) }));
        let plain = Layout { is_pool_form: false, ..layout };
        assert_eq!(plain.relation(&same), Ok(Relation { table: 4, tenant: None }), "a column like any other");
        let others = [
            message(&[("id", 20), (TENANT_COLUMN, 2950)]),
            message(&[(TENANT_COLUMN, 2950), ("id", 23)]),
            message(&[("id", 23)]),
            message(&[("id", 23), (TENANT_COLUMN, 2950), ("more", 25)]),
            RelationMessage { name: "b".to_owned(), ..same.clone() },
            RelationMessage { namespace: "other".to_owned(), ..same },
        ];
        for other in others {
            assert!(matches!(plain.relation(&other), Err(StreamFault::SchemaChanged { .. })), "{other:?}");
        }
    }
}
