//! Statements of a version that break the application version which still runs
//! while the new one is rolled out, or hold its statements up for long. They
//! are taken, and told: expanding first and contracting later avoids each.

use std::collections::BTreeSet;

use pg_query::NodeEnum;
use pg_query::protobuf::{AlterTableCmd, AlterTableType, ColumnDef, ConstrType, Constraint, ObjectType};
use serde::{Deserialize, Serialize};

use crate::names::text_of;
use crate::plain::PlainMigration;
use crate::source::{Source, excerpt};
use crate::syntax::Statement;

macro_rules! kinds {
    ($($(#[$doc:meta])* $variant:ident, $word:literal;)*) => {
        /// What a warning is about. The words are stable.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum WarningKind {
            $($(#[$doc])* $variant,)*
        }

        impl WarningKind {
            /// The stable word.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }
        }
    };
}

kinds! {
    /// Something that the running version may use is gone.
    Dropped, "dropped";
    /// Something that the running version may use has another name.
    Renamed, "renamed";
    /// The running version does not give a value that is demanded now.
    NotNull, "not_null";
    /// A column has another type.
    TypeChanged, "type_changed";
    /// Rows of the running version may violate a new rule.
    NewConstraint, "new_constraint";
    /// The whole table is written anew under a lock.
    Rewrite, "rewrite";
    /// Writes to the table wait until the whole table was read.
    LongLock, "long_lock";
}

/// A statement that may break or hold up what is running.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Warning {
    /// The migration's file name.
    pub file: String,
    /// The line in the file, from 1.
    pub line: usize,
    /// The statement, on one line and shortened.
    pub statement: String,
    /// What it is about.
    pub kind: WarningKind,
    /// What happens, and what to do instead.
    pub reason: String,
}

impl std::fmt::Display for Warning {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.reason)
    }
}

/// What in a version breaks or holds up the application version before it.
/// Tables that the version itself makes nobody uses yet.
#[must_use]
pub fn warnings(migration: &PlainMigration) -> Vec<Warning> {
    let file = migration.migration().file_name();
    let source = Source { file: &file, sql: &migration.migration().sql };
    let mut finder =
        Finder { source, made: made(&migration.statements), found: Vec::new(), line: 1, statement: "" };
    for statement in &migration.statements {
        finder.look(statement);
    }
    finder.found
}

/// The tables, and other things with a name of their own, that statements make.
fn made(statements: &[Statement]) -> BTreeSet<String> {
    let name = |statement: &Statement| match &statement.node {
        NodeEnum::CreateStmt(create) => create.relation.as_ref().map(|relation| relation.relname.clone()),
        NodeEnum::CreateTableAsStmt(create) => {
            create.into.as_ref().and_then(|into| into.rel.as_ref()).map(|relation| relation.relname.clone())
        }
        NodeEnum::ViewStmt(view) => view.view.as_ref().map(|relation| relation.relname.clone()),
        NodeEnum::CreateFunctionStmt(create) => create.funcname.last().and_then(text_of),
        NodeEnum::CreateEnumStmt(create) => create.type_name.last().and_then(text_of),
        NodeEnum::CreateDomainStmt(create) => create.domainname.last().and_then(text_of),
        _ => None,
    };
    statements.iter().filter_map(name).collect()
}

struct Finder<'a> {
    source: Source<'a>,
    made: BTreeSet<String>,
    found: Vec<Warning>,
    line: usize,
    statement: &'a str,
}

impl Finder<'_> {
    fn look(&mut self, statement: &Statement) {
        self.line = self.source.line_column(statement.start).0;
        self.statement = statement.text(self.source.sql);
        match &statement.node {
            NodeEnum::DropStmt(drop) => self.dropped(drop.remove_type, &drop.objects),
            NodeEnum::RenameStmt(rename) => {
                let table = rename.relation.as_ref().map_or("", |relation| relation.relname.as_str());
                self.renamed(rename.rename_type, table, &rename.subname, &rename.newname);
            }
            NodeEnum::AlterTableStmt(alter) => {
                let Some(relation) = &alter.relation else { return };
                if self.made.contains(&relation.relname) {
                    return;
                }
                for node in &alter.cmds {
                    if let Some(NodeEnum::AlterTableCmd(cmd)) = &node.node {
                        self.altered(&relation.relname, cmd);
                    }
                }
            }
            NodeEnum::IndexStmt(index) => {
                let table = index.relation.as_ref().map_or("", |relation| relation.relname.as_str());
                if self.made.contains(table) {
                    return;
                }
                if index.unique {
                    self.warn(WarningKind::NewConstraint, unique_breaks(table));
                }
                self.warn(WarningKind::LongLock, format!(
                    "writes to {table} wait until the index is built: where the table is large, apply it when little is written"
                ));
            }
            NodeEnum::AlterEnumStmt(alter) if !alter.old_val.is_empty() => {
                let reason = format!(
                    "the value {} has another name at once: the running version still reads and writes the old one",
                    alter.old_val
                );
                self.warn(WarningKind::Renamed, reason);
            }
            NodeEnum::CreateTrigStmt(create) => {
                let table = create.relation.as_ref().map_or("", |relation| relation.relname.as_str());
                if create.isconstraint && !self.made.contains(table) {
                    self.warn(
                        WarningKind::NewConstraint,
                        format!("what the running version writes to {table} may fail the new trigger"),
                    );
                }
            }
            _ => {}
        }
    }

    fn warn(&mut self, kind: WarningKind, reason: impl Into<String>) {
        self.found.push(Warning {
            file: self.source.file.to_owned(),
            line: self.line,
            statement: excerpt(self.statement),
            kind,
            reason: reason.into(),
        });
    }

    fn dropped(&mut self, kind: i32, objects: &[pg_query::Node]) {
        use ObjectType as T;
        let what = match T::try_from(kind) {
            Ok(T::ObjectTable) => "table",
            Ok(T::ObjectView) => "view",
            Ok(T::ObjectMatview) => "materialized view",
            Ok(T::ObjectFunction | T::ObjectProcedure | T::ObjectRoutine) => "function",
            Ok(T::ObjectType | T::ObjectDomain) => "type",
            Ok(T::ObjectSequence) => "sequence",
            _ => return,
        };
        for object in objects {
            let Some(name) = object_name(object) else { continue };
            // Dropped and made again in one version: nobody sees it missing.
            if !self.made.contains(&name) {
                let reason = format!(
                    "the {what} {name} is gone while the running version may still use it: drop it in a version after the \
                     application no longer does"
                );
                self.warn(WarningKind::Dropped, reason);
            }
        }
    }

    fn renamed(&mut self, kind: i32, table: &str, old: &str, new: &str) {
        use ObjectType as T;
        let what = match T::try_from(kind) {
            Ok(T::ObjectTable | T::ObjectView | T::ObjectMatview) if self.made.contains(table) => return,
            Ok(T::ObjectColumn | T::ObjectAttribute) if self.made.contains(table) => return,
            Ok(T::ObjectTable | T::ObjectView | T::ObjectMatview) => format!("{table} is called {new}"),
            Ok(T::ObjectColumn | T::ObjectAttribute) => format!("{table}.{old} is called {new}"),
            Ok(
                T::ObjectFunction | T::ObjectProcedure | T::ObjectType | T::ObjectDomain | T::ObjectSequence,
            ) => {
                format!("what it renames is called {new}")
            }
            _ => return,
        };
        let reason = format!(
            "{what} at once, and the running version asks for the old name: add the new one beside it, and drop the old one \
             in a later version"
        );
        self.warn(WarningKind::Renamed, reason);
    }

    fn altered(&mut self, table: &str, cmd: &AlterTableCmd) {
        use AlterTableType as T;
        let name = &cmd.name;
        match T::try_from(cmd.subtype) {
            Ok(T::AtDropColumn) => self.warn(
                WarningKind::Dropped,
                format!(
                    "the column {table}.{name} is gone while the running version may still use it: drop it in a version after \
                     the application no longer does"
                ),
            ),
            Ok(T::AtAddColumn) => {
                if let Some(NodeEnum::ColumnDef(column)) = cmd.def.as_ref().and_then(|def| def.node.as_ref()) {
                    self.added(table, column);
                }
            }
            Ok(T::AtSetNotNull) => {
                self.warn(
                    WarningKind::NotNull,
                    format!(
                        "the running version may write NULL into {table}.{name}: give the column a default first, and demand it \
                         in a later version"
                    ),
                );
                self.reads_all(table);
            }
            Ok(T::AtAlterColumnType) => self.warn(
                WarningKind::TypeChanged,
                format!(
                    "{table}.{name} has another type at once, and most changes of type write the whole table anew while \
                     nobody can read it: add a column of the new type, fill it, and drop the old one in a later version"
                ),
            ),
            Ok(T::AtAddConstraint) => {
                if let Some(NodeEnum::Constraint(constraint)) = cmd.def.as_ref().and_then(|def| def.node.as_ref()) {
                    self.constrained(table, constraint);
                }
            }
            Ok(T::AtSetLogged | T::AtSetUnLogged | T::AtSetAccessMethod | T::AtSetExpression) => {
                self.warn(WarningKind::Rewrite, rewrites(table));
            }
            Ok(T::AtDropExpression | T::AtDropIdentity) => self.warn(
                WarningKind::NotNull,
                format!("{table}.{name} gets no value any more where the running version gives none"),
            ),
            Ok(T::AtColumnDefault) if cmd.def.is_none() => self.warn(
                WarningKind::NotNull,
                format!("{table}.{name} has no default any more, on which the running version may rely"),
            ),
            _ => {}
        }
    }

    fn added(&mut self, table: &str, column: &ColumnDef) {
        let constraints: Vec<&Constraint> = column
            .constraints
            .iter()
            .filter_map(|node| match &node.node {
                Some(NodeEnum::Constraint(constraint)) => Some(&**constraint),
                _ => None,
            })
            .collect();
        let has = |kind: ConstrType| constraints.iter().find(|constraint| constraint.contype == kind as i32);
        let kind = column
            .type_name
            .as_ref()
            .and_then(|name| name.names.last())
            .and_then(text_of)
            .unwrap_or_default();
        let is_serial = kind.ends_with("serial");
        let filled = is_serial
            || has(ConstrType::ConstrDefault).is_some()
            || has(ConstrType::ConstrIdentity).is_some()
            || has(ConstrType::ConstrGenerated).is_some();
        let demanded = has(ConstrType::ConstrNotnull).is_some() || has(ConstrType::ConstrPrimary).is_some();
        if demanded && !filled {
            let reason = format!(
                "{table}.{} must have a value, which the running version does not give: add it with a default, or without NOT NULL",
                column.colname
            );
            self.warn(WarningKind::NotNull, reason);
        }
        let default = has(ConstrType::ConstrDefault).and_then(|default| default.raw_expr.as_ref());
        let calls = default
            .map(|expr| crate::facts::Facts::of(&serde_json::to_value(expr).unwrap_or_default()).functions);
        let volatile =
            calls.iter().flatten().any(|call| !matches!(call.name.as_str(), "now" | "transaction_timestamp"));
        if is_serial
            || volatile
            || has(ConstrType::ConstrIdentity).is_some()
            || has(ConstrType::ConstrGenerated).is_some()
        {
            self.warn(WarningKind::Rewrite, rewrites(table));
        }
        for constraint in constraints {
            match ConstrType::try_from(constraint.contype) {
                Ok(ConstrType::ConstrUnique | ConstrType::ConstrPrimary) => {
                    self.warn(WarningKind::LongLock, builds_index(table));
                }
                Ok(ConstrType::ConstrCheck) => self.reads_all(table),
                _ => {}
            }
        }
    }

    fn constrained(&mut self, table: &str, constraint: &Constraint) {
        match ConstrType::try_from(constraint.contype) {
            Ok(ConstrType::ConstrUnique | ConstrType::ConstrPrimary | ConstrType::ConstrExclusion)
                if constraint.indexname.is_empty() =>
            {
                self.warn(WarningKind::NewConstraint, unique_breaks(table));
                self.warn(WarningKind::LongLock, builds_index(table));
            }
            Ok(ConstrType::ConstrCheck | ConstrType::ConstrForeign | ConstrType::ConstrNotnull) => {
                self.warn(
                    WarningKind::NewConstraint,
                    format!(
                        "rows that the running version writes to {table} may violate the constraint: let the application keep to \
                         it first"
                    ),
                );
                if !constraint.skip_validation {
                    self.reads_all(table);
                }
            }
            _ => {}
        }
    }

    fn reads_all(&mut self, table: &str) {
        let reason = format!(
            "the whole of {table} is read while writes to it wait: add the constraint NOT VALID, and VALIDATE CONSTRAINT in the \
             next version"
        );
        self.warn(WarningKind::LongLock, reason);
    }
}

fn unique_breaks(table: &str) -> String {
    format!(
        "what the running version writes to {table} may not be unique: let the application keep to it first"
    )
}

fn builds_index(table: &str) -> String {
    format!(
        "an index over the whole of {table} is built while nobody can write to it: where the table is large, apply it when little is \
         written"
    )
}

fn rewrites(table: &str) -> String {
    format!(
        "the whole of {table} is written anew while nobody can read it: add the column without a default, and fill it in steps"
    )
}

fn object_name(object: &pg_query::Node) -> Option<String> {
    match object.node.as_ref()? {
        NodeEnum::List(list) => list.items.last().and_then(text_of),
        NodeEnum::ObjectWithArgs(named) => named.objname.last().and_then(text_of),
        NodeEnum::TypeName(name) => name.names.last().and_then(text_of),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use insula_domain::SchemaVersion;

    use super::*;
    use crate::{Migration, check};

    fn found(sql: &str) -> Vec<(usize, WarningKind)> {
        let plain = check(&Migration::new(SchemaVersion(2), "x", sql)).unwrap();
        warnings(&plain).into_iter().map(|warning| (warning.line, warning.kind)).collect()
    }

    #[test]
    fn what_breaks_the_running_version_is_told() {
        use WarningKind as K;
        let cases: [(&str, &[K]); 30] = [
            ("DROP TABLE t", &[K::Dropped]),
            ("DROP VIEW v", &[K::Dropped]),
            ("DROP FUNCTION f(int)", &[K::Dropped]),
            ("DROP TYPE y", &[K::Dropped]),
            ("ALTER TABLE t DROP COLUMN a", &[K::Dropped]),
            ("ALTER TABLE t RENAME TO u", &[K::Renamed]),
            ("ALTER TABLE t RENAME COLUMN a TO b", &[K::Renamed]),
            ("ALTER TYPE y RENAME VALUE 'a' TO 'b'", &[K::Renamed]),
            ("ALTER TABLE t ADD COLUMN a int NOT NULL", &[K::NotNull]),
            ("ALTER TABLE t ALTER COLUMN a SET NOT NULL", &[K::NotNull, K::LongLock]),
            ("ALTER TABLE t ALTER COLUMN a DROP DEFAULT", &[K::NotNull]),
            ("ALTER TABLE t ALTER COLUMN a TYPE bigint", &[K::TypeChanged]),
            ("ALTER TABLE t ADD CONSTRAINT c CHECK (a > 0)", &[K::NewConstraint, K::LongLock]),
            ("ALTER TABLE t ADD CONSTRAINT c CHECK (a > 0) NOT VALID", &[K::NewConstraint]),
            ("ALTER TABLE t ADD FOREIGN KEY (a) REFERENCES u", &[K::NewConstraint, K::LongLock]),
            ("ALTER TABLE t ADD UNIQUE (a)", &[K::NewConstraint, K::LongLock]),
            ("CREATE UNIQUE INDEX ON t (a)", &[K::NewConstraint, K::LongLock]),
            ("CREATE INDEX ON t (a)", &[K::LongLock]),
            ("ALTER TABLE t ADD COLUMN a uuid DEFAULT gen_random_uuid()", &[K::Rewrite]),
            ("ALTER TABLE t ADD COLUMN a bigserial", &[K::Rewrite]),
            ("ALTER TABLE t SET UNLOGGED", &[K::Rewrite]),
            // And what does not.
            ("ALTER TABLE t ADD COLUMN a int", &[]),
            ("ALTER TABLE t ADD COLUMN a int NOT NULL DEFAULT 0", &[]),
            ("ALTER TABLE t ADD COLUMN a timestamptz NOT NULL DEFAULT now()", &[]),
            ("ALTER TABLE t VALIDATE CONSTRAINT c", &[]),
            ("ALTER TABLE t ALTER COLUMN a DROP NOT NULL", &[]),
            ("CREATE TABLE t (a int NOT NULL)", &[]),
            (
                "CREATE TABLE t (a int); CREATE UNIQUE INDEX ON t (a); ALTER TABLE t ADD COLUMN b int NOT NULL",
                &[],
            ),
            ("DROP VIEW v; CREATE VIEW v AS SELECT 1 AS a", &[]),
            ("UPDATE t SET a = 1", &[]),
        ];
        for (sql, kinds) in cases {
            let found: Vec<_> = found(sql).into_iter().map(|(_, kind)| kind).collect();
            assert_eq!(found, kinds, "{sql}");
        }
    }

    #[test]
    fn a_warning_names_its_line() {
        assert_eq!(found("CREATE TABLE u (a int);\n\nDROP TABLE t;"), [(3, WarningKind::Dropped)]);
    }
}
