//! The statements that apply changes to a table. Pure. Values travel as text:
//! the server takes their types from the columns.

use super::super::told_key::told;
use super::super::{MovedColumn, MovedTable, Place, identifier};

/// What is done to a row.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Operation {
    Insert,
    Update {
        /// Whether the key may be another one now.
        rekeyed: bool,
        /// The columns that stay, by their numbers.
        unchanged: Vec<usize>,
    },
    Delete,
}

/// A table at the target.
#[derive(Debug)]
pub(super) struct TargetTable {
    pub name: String,
    /// Its name in SQL, after `update` and its like.
    rows: String,
    /// Its name in SQL, after `insert into`.
    qualified: String,
    /// The tenant's id as an SQL literal, where the table has its column.
    tenant: Option<String>,
    columns: Vec<TargetColumn>,
    /// The numbers of the columns of the key.
    pub key: Vec<usize>,
}

#[derive(Debug)]
struct TargetColumn {
    /// Its name in SQL.
    name: String,
    moved: MovedColumn,
}

impl TargetTable {
    pub fn new(target: &Place, table: &MovedTable) -> Self {
        let schema = &target.placement.schema;
        let number = |name: &String| table.columns.iter().position(|column| &column.name == name);
        Self {
            name: table.name.clone(),
            rows: table.source(schema),
            qualified: table.qualified(schema),
            tenant: target.is_pool_form().then(|| format!("'{}'::uuid", target.tenant.as_uuid())),
            columns: table
                .columns
                .iter()
                .map(|column| TargetColumn { name: identifier(&column.name), moved: column.clone() })
                .collect(),
            key: table.key.iter().filter_map(number).collect(),
        }
    }

    /// How many columns it has, without the tenant's.
    pub fn width(&self) -> usize {
        self.columns.len()
    }

    /// The statement of an operation. Its parameters: for an insert all
    /// columns; for an update those of [`TargetTable::set`], then the key; for
    /// a delete the key.
    pub fn sql(&self, operation: &Operation) -> String {
        match operation {
            Operation::Insert => self.insert(),
            Operation::Update { rekeyed, unchanged } => self.update(*rekeyed, unchanged),
            Operation::Delete => format!("delete from {} where {}", self.rows, self.is_row(1)),
        }
    }

    /// The statement that leaves none of the tenant's rows, where the tables
    /// are shared.
    pub fn delete_all(&self) -> Option<String> {
        let tenant = self.tenant.as_ref()?;
        Some(format!("delete from {} where tenant_id = {tenant}", self.rows))
    }

    /// The statement that leaves no rows in tables that are the tenant's own. The
    /// source has seen to it that whatever refers to them is among them, but for
    /// the partitioned tables that some of them are parts of.
    pub fn truncate<'a>(tables: impl Iterator<Item = &'a Self>) -> String {
        let names: Vec<&str> = tables.map(|table| table.rows.as_str()).collect();
        format!("truncate {} cascade", names.join(", "))
    }

    /// The numbers of the columns that an update sets.
    pub fn set(&self, rekeyed: bool, unchanged: &[usize]) -> Vec<usize> {
        let is_set = |number: &usize| !unchanged.contains(number) && (rekeyed || !self.key.contains(number));
        (0..self.columns.len()).filter(is_set).collect()
    }

    /// A key as it may be told.
    pub fn told_key<'a>(&self, values: impl Iterator<Item = Option<&'a [u8]>>) -> String {
        let told =
            self.key.iter().zip(values).map(|(number, value)| told(&self.columns[*number].moved, value));
        told.collect::<Vec<_>>().join(", ")
    }

    fn insert(&self) -> String {
        let mut names: Vec<&str> = self.columns.iter().map(|column| column.name.as_str()).collect();
        let mut values: Vec<String> = (1..=names.len()).map(|number| format!("${number}")).collect();
        if let Some(tenant) = &self.tenant {
            names.push("tenant_id");
            values.push(tenant.clone());
        }
        if names.is_empty() {
            return format!("insert into {} default values", self.qualified);
        }
        let (names, values) = (names.join(", "), values.join(", "));
        format!("insert into {} ({names}) overriding system value values ({values})", self.qualified)
    }

    fn update(&self, rekeyed: bool, unchanged: &[usize]) -> String {
        let set = self.set(rekeyed, unchanged);
        if set.is_empty() {
            // The row must be there all the same.
            return format!("select from {} where {} for update", self.rows, self.is_row(1));
        }
        if set.iter().any(|number| self.columns[*number].moved.always_identity) {
            return self.replace(&set);
        }
        let listed: Vec<String> = set
            .iter()
            .zip(1..)
            .map(|(number, parameter)| format!("{} = ${parameter}", self.columns[*number].name))
            .collect();
        format!("update {} set {} where {}", self.rows, listed.join(", "), self.is_row(set.len() + 1))
    }

    /// Puts a row in the place of another, for what `update` refuses: a column
    /// that is `generated always as identity` takes nothing but its default
    /// there, and the source has drawn it already.
    fn replace(&self, set: &[usize]) -> String {
        let mut names: Vec<&str> = self.columns.iter().map(|column| column.name.as_str()).collect();
        let value = |(number, column): (usize, &TargetColumn)| {
            let parameter = set.iter().position(|set| *set == number);
            parameter.map_or_else(|| format!("gone.{}", column.name), |index| format!("${}", index + 1))
        };
        let mut values: Vec<String> = self.columns.iter().enumerate().map(value).collect();
        if let Some(tenant) = &self.tenant {
            names.push("tenant_id");
            values.push(tenant.clone());
        }
        format!(
            "with gone as (delete from {} where {} returning *) \
             insert into {} ({}) overriding system value select {} from gone",
            self.rows,
            self.is_row(set.len() + 1),
            self.qualified,
            names.join(", "),
            values.join(", "),
        )
    }

    /// The condition that is true of one row, whose key's parameters begin with
    /// this number.
    fn is_row(&self, first: usize) -> String {
        let tenant = self.tenant.iter().map(|tenant| format!("tenant_id = {tenant}"));
        let key = self
            .key
            .iter()
            .zip(first..)
            .map(|(number, parameter)| format!("{} = ${parameter}", self.columns[*number].name));
        tenant.chain(key).collect::<Vec<_>>().join(" and ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(tenant: Option<&str>) -> TargetTable {
        let column = |name: &str| TargetColumn {
            name: identifier(name),
            moved: MovedColumn {
                name: name.to_owned(),
                type_name: if name == "no" { "integer" } else { "text" }.to_owned(),
                always_identity: name.starts_with("id"),
            },
        };
        TargetTable {
            name: "line".to_owned(),
            rows: "only app.\"line\"".to_owned(),
            qualified: "app.\"line\"".to_owned(),
            tenant: tenant.map(str::to_owned),
            columns: ["id", "no", "text", "more"].map(column).into(),
            key: vec![1, 0],
        }
    }

    #[test]
    fn statements_name_the_tenant_where_rows_are_shared() {
        let update =
            |rekeyed, unchanged: &[usize]| Operation::Update { rekeyed, unchanged: unchanged.into() };
        let (own, shared) = (table(None), table(Some("'t'::uuid")));
        assert_eq!(
            own.sql(&Operation::Insert),
            r#"insert into app."line" ("id", "no", "text", "more") overriding system value values ($1, $2, $3, $4)"#
        );
        assert_eq!(
            shared.sql(&Operation::Insert),
            r#"insert into app."line" ("id", "no", "text", "more", tenant_id) overriding system value values ($1, $2, $3, $4, 't'::uuid)"#
        );
        assert_eq!(
            own.sql(&update(false, &[3])),
            r#"update only app."line" set "text" = $1 where "no" = $2 and "id" = $3"#
        );
        assert_eq!(
            shared.sql(&update(true, &[0])),
            r#"update only app."line" set "no" = $1, "text" = $2, "more" = $3 where tenant_id = 't'::uuid and "no" = $4 and "id" = $5"#
        );
        assert_eq!(
            shared.sql(&update(true, &[3])),
            r#"with gone as (delete from only app."line" where tenant_id = 't'::uuid and "no" = $4 and "id" = $5 returning *) insert into app."line" ("id", "no", "text", "more", tenant_id) overriding system value select $1, $2, $3, gone."more", 't'::uuid from gone"#
        );
        assert_eq!(
            own.sql(&update(false, &[2, 3])),
            r#"select from only app."line" where "no" = $1 and "id" = $2 for update"#
        );
        assert_eq!(
            shared.sql(&Operation::Delete),
            r#"delete from only app."line" where tenant_id = 't'::uuid and "no" = $1 and "id" = $2"#
        );
        assert_eq!(
            shared.delete_all().unwrap(),
            r#"delete from only app."line" where tenant_id = 't'::uuid"#
        );
        assert_eq!(own.delete_all(), None);
        assert_eq!(
            TargetTable::truncate([&own, &own].into_iter()),
            r#"truncate only app."line", only app."line" cascade"#
        );
        assert_eq!(own.told_key([Some(&b"7"[..]), None].into_iter()), "no=7, id=null");
    }
}
