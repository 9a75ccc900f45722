//! The pool form: a migration rewritten so that it is safe in tables that
//! tenants share. Every table gets the tenant's column, first in every key,
//! and row-level security; what cannot be proved safe is refused.

mod alter;
mod ast;
mod conditions;
mod data;
mod drops;
mod function;
mod index;
mod keys;
mod model;
mod other;
mod partitions;
mod proof;
mod setval;
mod table;
mod trigger;
mod truncate;

use std::collections::{BTreeMap, BTreeSet};

use insula_domain::SchemaVersion;
use pg_query::NodeEnum;
use pg_query::protobuf::ObjectType;
use serde::{Deserialize, Serialize};

use crate::folder::AppliedVersion;
use crate::plain::PlainMigration;
use crate::refusal::{Refusal, RefusalKind, Refusals};
use crate::source::Source;
use crate::syntax::{Statement, deparse, offset};
pub use conditions::{Find, RowCondition};
use model::Model;

/// The schema of the shared tables.
pub const POOL_SCHEMA: &str = "app";
/// The schema that extensions are in, where tenants share a database.
pub const EXTENSION_SCHEMA: &str = "public";
/// The search path of functions that may run as the owner of the tables. The
/// schema for temporary things comes last, as it else comes first.
pub const PINNED_SEARCH_PATH: [&str; 3] = [POOL_SCHEMA, EXTENSION_SCHEMA, "pg_temp"];
/// The policy of every table in a pool.
pub const POLICY_NAME: &str = "insula_tenant";
/// Which rows a tenant sees and changes. Written out, as the planner can then
/// estimate how many they are.
pub const POLICY_USING: &str = "tenant_id = insula.current_tenant()";
/// Which rows a tenant may write. In a sub-select, as it is then evaluated once
/// a statement instead of once a row.
pub const POLICY_CHECK: &str = "tenant_id = (SELECT insula.current_tenant())";

/// As whom a statement of the pool form runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Runs {
    /// The role that owns the shared tables: definitions.
    Owner,
    /// A role that row-level security does not hold back: extensions, and
    /// foreign keys, which PostgreSQL would else check against no rows at all.
    Admin,
    /// Each tenant in turn: data.
    Tenant,
}

/// One statement of the pool form.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolStatement {
    /// The SQL, without a semicolon.
    pub sql: String,
    /// The line in the migration that it comes from, from 1.
    pub line: usize,
    /// As whom it runs.
    pub runs: Runs,
}

/// The pool form of one version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolMigration {
    /// Version and hash of the migration that it comes from.
    pub applied: AppliedVersion,
    /// The migration's file name.
    pub file: String,
    /// The statements, in their order.
    pub statements: Vec<PoolStatement>,
    /// What it asks of the rows that are there.
    #[serde(default)]
    pub conditions: Vec<RowCondition>,
    /// What the app schema holds once it is applied.
    pub shape: PoolShape,
    /// The columns of its tables' primary keys, as their developer wrote them;
    /// none for a table without one, and for a view.
    pub keys: BTreeMap<String, Vec<String>>,
}

/// The things that an app schema holds, by name, for the catalog audit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolShape {
    /// Its tables.
    pub tables: BTreeSet<String>,
    /// Its views; some may be gone with a table that was dropped with CASCADE.
    pub views: BTreeSet<String>,
    /// Its functions and procedures.
    pub functions: BTreeSet<String>,
    /// Its enums, domains and composite types.
    pub types: BTreeSet<String>,
}

impl PoolMigration {
    /// Whether it has statements that each tenant runs.
    #[must_use]
    pub fn has_data(&self) -> bool {
        self.statements.iter().any(|statement| statement.runs == Runs::Tenant)
    }

    /// Whether it builds and drops indexes `CONCURRENTLY`, and so runs outside of
    /// a transaction.
    #[must_use]
    pub fn is_concurrent(&self) -> bool {
        self.statements.first().is_some_and(|first| crate::concurrent::concurrent_index(&first.sql).is_some())
    }

    /// The version.
    #[must_use]
    pub fn version(&self) -> SchemaVersion {
        self.applied.version
    }
}

/// The app schema in the pool form, version by version. Each version is
/// rewritten knowing those before it.
#[derive(Debug, Clone, Default)]
pub struct PoolForm {
    model: Model,
    version: SchemaVersion,
}

impl PoolForm {
    /// The empty app schema, version 0.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The newest version that it knows.
    #[must_use]
    pub fn version(&self) -> SchemaVersion {
        self.version
    }

    /// Rewrites the next version. A version that is refused leaves the form as
    /// it was.
    ///
    /// # Errors
    /// Everything in the migration that is not proved safe in a pool.
    pub fn rewrite(&mut self, plain: &PlainMigration) -> Result<PoolMigration, Refusals> {
        let file = plain.migration().file_name();
        let source = Source { file: &file, sql: &plain.migration().sql };
        let mut rewriter = Rewriter::new(source, self.model.clone());
        for statement in &plain.statements {
            rewriter.take(statement);
        }
        let (model, statements, conditions) = rewriter.finish()?;
        self.model = model;
        self.version = plain.version();
        let (shape, keys) = (self.model.shape(), self.model.primary_keys());
        Ok(PoolMigration { applied: plain.applied(), file, statements, conditions, shape, keys })
    }

    /// Rewrites all versions from the first.
    ///
    /// # Errors
    /// The refusals of the first version that has any.
    pub fn replay(plain: &[PlainMigration]) -> Result<(Self, Vec<PoolMigration>), Refusals> {
        let mut form = Self::new();
        let migrations = plain.iter().map(|version| form.rewrite(version)).collect::<Result<_, _>>()?;
        Ok((form, migrations))
    }
}

/// The rewriting of one migration.
struct Rewriter<'a> {
    source: Source<'a>,
    model: Model,
    /// Text and place of the statement at hand.
    text: &'a str,
    start: usize,
    line: usize,
    out: Vec<PoolStatement>,
    refusals: Vec<Refusal>,
    /// Tables made by this migration, for which an index may have to be made.
    new_tables: Vec<(String, usize)>,
    /// What has been refused already, so that it is said once.
    unproved: BTreeSet<String>,
    /// Statements that rename what the statement at hand has made.
    renames: Vec<String>,
    conditions: Vec<RowCondition>,
}

impl<'a> Rewriter<'a> {
    fn new(source: Source<'a>, model: Model) -> Self {
        Self {
            source,
            model,
            text: "",
            start: 0,
            line: 1,
            out: Vec::new(),
            refusals: Vec::new(),
            new_tables: Vec::new(),
            unproved: BTreeSet::new(),
            renames: Vec::new(),
            conditions: Vec::new(),
        }
    }

    fn take(&mut self, statement: &Statement) {
        self.text = statement.text(self.source.sql);
        self.start = statement.start;
        self.line = self.source.line_column(statement.start).0;
        self.rewrite(statement);
        for rename in std::mem::take(&mut self.renames) {
            self.emit(rename, Runs::Owner);
        }
        self.prove_all();
        self.pin_functions();
    }

    fn finish(mut self) -> Result<(Model, Vec<PoolStatement>, Vec<RowCondition>), Refusals> {
        self.index_keyless_tables();
        if self.refusals.is_empty() {
            Ok((self.model, self.out, self.conditions))
        } else {
            Err(Refusals(self.refusals))
        }
    }

    fn rewrite(&mut self, statement: &Statement) {
        match &statement.node {
            NodeEnum::CreateStmt(create) => self.create_table(create),
            NodeEnum::AlterTableStmt(alter) => self.alter_table(alter),
            NodeEnum::IndexStmt(index) => self.create_index(index),
            NodeEnum::ViewStmt(view) => self.create_view(view),
            NodeEnum::CreateFunctionStmt(create) => self.create_function(create),
            NodeEnum::AlterFunctionStmt(alter) => self.alter_function(alter),
            NodeEnum::CreateTrigStmt(create) => self.create_trigger(create),
            NodeEnum::CompositeTypeStmt(create) => self.create_composite(create),
            NodeEnum::CreateEnumStmt(create) => self.create_enum(create),
            NodeEnum::AlterEnumStmt(_) | NodeEnum::ConstraintsSetStmt(_) => self.emit_unchanged(Runs::Owner),
            NodeEnum::CreateDomainStmt(create) => self.create_domain(create),
            NodeEnum::AlterDomainStmt(alter) => self.alter_domain(alter),
            NodeEnum::CreateSeqStmt(create) => self.create_sequence(create),
            NodeEnum::AlterSeqStmt(alter) => self.alter_sequence(alter),
            NodeEnum::CreateExtensionStmt(create) => self.create_extension(create),
            NodeEnum::CreateStatsStmt(create) => self.create_statistics(create),
            NodeEnum::AlterStatsStmt(_) => self.emit_unchanged(Runs::Owner),
            NodeEnum::DefineStmt(define) if define.kind == ObjectType::ObjectCollation as i32 => {
                self.emit_unchanged(Runs::Owner);
            }
            NodeEnum::TruncateStmt(truncate) => self.truncate(truncate),
            NodeEnum::DropStmt(drop) => self.drop_objects(drop),
            NodeEnum::RenameStmt(rename) => self.rename(rename),
            NodeEnum::CommentStmt(comment) => self.comment(comment),
            node if crate::plain::is_data(node) => self.data(statement),
            node => self.refuse_kind(node),
        }
    }

    /// Refuses the statement at hand, pointing at a location of the parser.
    fn refuse(&mut self, location: i32, kind: RefusalKind, reason: impl Into<String>) {
        let at = offset(location).max(self.start);
        self.refusals.push(self.source.refuse(self.text, at, kind, reason));
    }

    fn emit(&mut self, sql: impl Into<String>, runs: Runs) {
        self.out.push(PoolStatement { sql: sql.into(), line: self.line, runs });
    }

    fn emit_unchanged(&mut self, runs: Runs) {
        self.emit(self.text, runs);
    }

    fn emit_tree(&mut self, node: NodeEnum, runs: Runs) {
        match deparse(node) {
            Ok(sql) => self.emit(sql, runs),
            Err(error) => self.refuse(
                0,
                RefusalKind::NotSupported,
                format!("its pool form cannot be written as SQL: {error}"),
            ),
        }
    }

    /// Proves whatever the app schema calls. What is not proved is the fault of
    /// the statement at hand, as everything was proved before it.
    fn prove_all(&mut self) {
        for obligation in self.model.obligations() {
            if let Err(reason) = self.model.prove(&obligation)
                && self.unproved.insert(obligation.what.clone())
            {
                self.refuse(0, obligation.kind, reason);
            }
        }
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_tables;
