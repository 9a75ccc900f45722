//! The plain form: a migration exactly as its developer wrote it, once it is
//! known that it keeps to its placement. It must run inside one transaction,
//! leave the session as it is, name no schema, and give no rights.

use insula_domain::SchemaVersion;
use pg_query::NodeEnum;
use pg_query::protobuf::{AlterTableType, ObjectType, Token, TransactionStmtKind};

use crate::body;
use crate::builtins::EXTENSIONS;
use crate::concurrent::{concurrent_index_of, refuse_concurrent};
use crate::facts::{Facts, Name};
use crate::folder::{AppliedVersion, Migration};
use crate::refusal::{Refusal, RefusalKind, Refusals};
use crate::source::{Source, excerpt};
use crate::syntax::{Statement, offset, statements, tokens_of};

/// Schemas that a statement may name.
const NAMED_FREELY: [&str; 2] = ["pg_catalog", "information_schema"];

/// A migration that keeps to its placement. Only [`check`] makes one.
#[derive(Debug, Clone)]
pub struct PlainMigration {
    migration: Migration,
    pub(crate) statements: Vec<Statement>,
    extensions: Vec<String>,
}

/// Where a statement stands and how it begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatementPlace {
    /// The line of its first token, from 1.
    pub line: usize,
    /// The statement, on one line and shortened.
    pub excerpt: String,
}

/// Reads a migration and proves that it keeps to its placement.
///
/// # Errors
/// Everything in it that does not, or its first syntax error.
pub fn check(migration: &Migration) -> Result<PlainMigration, Refusals> {
    let file = migration.file_name();
    let source = Source { file: &file, sql: &migration.sql };
    let statements = statements(source).map_err(|refusal| Refusals(vec![refusal]))?;
    let mut refusals: Vec<Refusal> =
        statements.iter().flat_map(|statement| refuse(source, statement)).collect();
    refusals.extend(refuse_concurrent(source, &statements));
    if !refusals.is_empty() {
        return Err(Refusals(refusals));
    }
    let extensions = statements.iter().filter_map(extension_of).collect();
    Ok(PlainMigration { migration: migration.clone(), statements, extensions })
}

/// Checks several migrations at once.
///
/// # Errors
/// The refusals of all of them.
pub fn check_all(migrations: &[Migration]) -> Result<Vec<PlainMigration>, Refusals> {
    let mut checked = Vec::with_capacity(migrations.len());
    let mut refused = Vec::new();
    for migration in migrations {
        match check(migration) {
            Ok(plain) => checked.push(plain),
            Err(Refusals(refusals)) => refused.extend(refusals),
        }
    }
    if refused.is_empty() { Ok(checked) } else { Err(Refusals(refused)) }
}

impl PlainMigration {
    /// The version.
    #[must_use]
    pub fn version(&self) -> SchemaVersion {
        self.migration.version
    }

    /// The migration as its developer wrote it.
    #[must_use]
    pub fn migration(&self) -> &Migration {
        &self.migration
    }

    /// Version and hash, to remember it by.
    #[must_use]
    pub fn applied(&self) -> AppliedVersion {
        AppliedVersion { version: self.migration.version, sha256: self.migration.sha256.clone() }
    }

    /// The extensions that it asks for.
    #[must_use]
    pub fn extensions(&self) -> &[String] {
        &self.extensions
    }

    /// The text with each `CREATE EXTENSION` blanked out, every other byte in
    /// its place: extensions belong to a database and are made by whoever
    /// prepares it, not by the owner of one schema in it.
    #[must_use]
    pub fn sql_without_extensions(&self) -> String {
        let mut sql = self.migration.sql.clone();
        for statement in self.statements.iter().filter(|statement| extension_of(statement).is_some()) {
            let blank: String = statement
                .text(&self.migration.sql)
                .chars()
                .map(|c| if c == '\n' { '\n' } else { ' ' })
                .collect();
            sql.replace_range(statement.start..statement.end, &blank);
        }
        sql
    }

    /// The same without the word `CONCURRENTLY`, for a database in which nobody
    /// is held up.
    #[must_use]
    pub fn sql_in_a_transaction(&self) -> String {
        let mut sql = self.sql_without_extensions();
        if self.concurrent_statements().is_some() {
            let concurrently = Token::Concurrently as i32;
            for token in tokens_of(&sql.clone()).into_iter().filter(|token| token.token == concurrently) {
                let range = offset(token.start)..offset(token.end);
                let blank = " ".repeat(range.len());
                sql.replace_range(range, &blank);
            }
        }
        sql
    }

    /// How many statements the server sees of [`Self::sql_without_extensions`].
    #[must_use]
    pub fn statement_count(&self) -> usize {
        self.statements.len() - self.extensions.len()
    }

    /// The statement that the server meets as number `index`, from 0, of
    /// [`Self::sql_without_extensions`].
    #[must_use]
    pub fn statement(&self, index: usize) -> Option<StatementPlace> {
        let statement =
            self.statements.iter().filter(|statement| extension_of(statement).is_none()).nth(index)?;
        Some(self.place_of(statement))
    }

    /// Where definitions follow statements about rows: for each such place the
    /// number of the statement before it, as for [`Self::statement`], and how
    /// many characters of [`Self::sql_without_extensions`] end with it.
    #[must_use]
    pub fn ends_of_data(&self) -> Vec<(usize, usize)> {
        let seen = self.statements.iter().filter(|statement| extension_of(statement).is_none());
        let seen: Vec<_> = seen.enumerate().collect();
        let ends = seen.windows(2).filter(|pair| is_data(&pair[0].1.node) && !is_data(&pair[1].1.node));
        ends.map(|pair| (pair[0].0, self.migration.sql[..pair[0].1.end].chars().count())).collect()
    }

    /// The line of a character of the text, both from 1, as PostgreSQL counts
    /// the position of an error.
    #[must_use]
    pub fn line_of_character(&self, position: usize) -> usize {
        let sql = &self.migration.sql;
        1 + sql.chars().take(position.saturating_sub(1)).filter(|c| *c == '\n').count()
    }

    /// Its statements, each with its place, where it builds and drops indexes
    /// `CONCURRENTLY` and does nothing else.
    #[must_use]
    pub fn concurrent_statements(&self) -> Option<Vec<(StatementPlace, &str)>> {
        let text = |statement: &Statement| {
            concurrent_index_of(&statement.node)?;
            let text = &self.migration.sql[statement.start..statement.end];
            Some((self.place_of(statement), text))
        };
        let texts: Option<Vec<_>> = self.statements.iter().map(text).collect();
        texts.filter(|texts| !texts.is_empty())
    }

    /// Whether it holds statements that write or read rows.
    #[must_use]
    pub fn has_data(&self) -> bool {
        self.statements.iter().any(|statement| is_data(&statement.node))
    }

    pub(crate) fn place_of(&self, statement: &Statement) -> StatementPlace {
        let source = Source { file: "", sql: &self.migration.sql };
        let (line, _) = source.line_column(statement.start);
        StatementPlace { line, excerpt: excerpt(statement.text(&self.migration.sql)) }
    }
}

/// Whether a statement is about rows rather than definitions.
pub(crate) fn is_data(node: &NodeEnum) -> bool {
    matches!(
        node,
        NodeEnum::InsertStmt(_)
            | NodeEnum::UpdateStmt(_)
            | NodeEnum::DeleteStmt(_)
            | NodeEnum::MergeStmt(_)
            | NodeEnum::SelectStmt(_)
            | NodeEnum::CallStmt(_)
    )
}

fn extension_of(statement: &Statement) -> Option<String> {
    match &statement.node {
        NodeEnum::CreateExtensionStmt(create) => Some(create.extname.clone()),
        _ => None,
    }
}

fn refuse(source: Source<'_>, statement: &Statement) -> Vec<Refusal> {
    let text = statement.text(source.sql);
    let mut refusals = Vec::new();
    if let Some((kind, reason)) = refuse_kind(&statement.node) {
        return vec![source.refuse(text, statement.start, kind, reason)];
    }
    let mut facts = Facts::of(&statement.json);
    let calls_set_config = facts.functions.iter().find(|call| call.name == "set_config").cloned();
    facts.qualified.extend(names_of_objects(&statement.node));
    if let NodeEnum::CreateFunctionStmt(function) = &statement.node
        && let Ok(body) = body::read(function, text)
    {
        let named = body.facts.qualified.into_iter().map(|name| Name { location: None, ..name });
        facts.qualified.extend(named);
    }
    if let Some(call) = calls_set_config {
        let at = call.location.unwrap_or(statement.start);
        let reason = "set_config would change the session that Insula applies versions with";
        refusals.push(source.refuse(text, at, RefusalKind::SessionState, reason));
    }
    let mut named = Vec::new();
    for Name { schema, name, location } in facts.qualified {
        let Some(schema) = schema.filter(|schema| !NAMED_FREELY.contains(&schema.as_str())) else { continue };
        if named.contains(&(schema.clone(), name.clone())) {
            continue;
        }
        let at = location.unwrap_or(statement.start);
        let reason = format!(
            "{schema}.{name} names a schema, which the placement of each tenant decides: write {name} alone"
        );
        refusals.push(source.refuse(text, at, RefusalKind::SchemaName, reason));
        named.push((schema, name));
    }
    refusals
}

/// Names that stand in lists of plain strings: the objects of DROP, COMMENT
/// and RENAME.
fn names_of_objects(node: &NodeEnum) -> Vec<Name> {
    let object = |node: &pg_query::Node, own: usize| -> Option<Name> {
        let NodeEnum::List(list) = node.node.as_ref()? else { return None };
        let parts: Vec<_> = list.items.iter().filter_map(crate::names::text_of).collect();
        let schema = parts.len().checked_sub(own + 1)?;
        Some(Name {
            schema: Some(parts[schema].clone()),
            name: parts[schema + 1..].join("."),
            location: None,
        })
    };
    let parts_of = |kind: i32| match ObjectType::try_from(kind) {
        Ok(
            ObjectType::ObjectColumn
            | ObjectType::ObjectTrigger
            | ObjectType::ObjectRule
            | ObjectType::ObjectPolicy
            | ObjectType::ObjectTabconstraint,
        ) => 2,
        _ => 1,
    };
    match node {
        NodeEnum::DropStmt(drop) => {
            drop.objects.iter().filter_map(|node| object(node, parts_of(drop.remove_type))).collect()
        }
        NodeEnum::CommentStmt(comment) => {
            let named = comment.object.as_ref().and_then(|node| object(node, parts_of(comment.objtype)));
            named.into_iter().collect()
        }
        NodeEnum::RenameStmt(rename) => {
            let named = rename.object.as_ref().and_then(|node| object(node, parts_of(rename.rename_type)));
            named.into_iter().collect()
        }
        _ => Vec::new(),
    }
}

type Answer = Option<(RefusalKind, String)>;

fn no(kind: RefusalKind, reason: &str) -> Answer {
    Some((kind, reason.to_owned()))
}

/// Refuses a statement for its kind alone.
fn refuse_kind(node: &NodeEnum) -> Answer {
    match node {
        NodeEnum::TransactionStmt(transaction) => refuse_transaction(transaction.kind),
        NodeEnum::VariableSetStmt(_) | NodeEnum::DiscardStmt(_) | NodeEnum::AlterRoleSetStmt(_) => no(
            RefusalKind::SessionState,
            "a version leaves the session as it is: Insula sets the role, the search path and the time-outs",
        ),
        NodeEnum::GrantStmt(_)
        | NodeEnum::GrantRoleStmt(_)
        | NodeEnum::AlterOwnerStmt(_)
        | NodeEnum::AlterDefaultPrivilegesStmt(_)
        | NodeEnum::ReassignOwnedStmt(_)
        | NodeEnum::DropOwnedStmt(_) => {
            no(RefusalKind::RightsAndOwners, "rights and owners follow from the placement: Insula gives them")
        }
        NodeEnum::CreateSchemaStmt(_) | NodeEnum::AlterObjectSchemaStmt(_) => no(
            RefusalKind::SchemaName,
            "the placement decides the schema: an app schema neither makes schemas nor moves things between them",
        ),
        NodeEnum::CreateExtensionStmt(create) => refuse_extension(&create.extname, &create.options),
        NodeEnum::CreateFunctionStmt(function) => refuse_function(function),
        NodeEnum::AlterTableStmt(alter) => refuse_alter_table(alter),
        NodeEnum::DropStmt(drop) => refuse_drop(drop),
        NodeEnum::CommentStmt(comment) => refuse_comment(comment.objtype),
        NodeEnum::IndexStmt(index) if !index.table_space.is_empty() => tablespace(),
        NodeEnum::CreateStmt(create) if create.relation.as_ref().is_some_and(|r| r.relpersistence == "t") => {
            temporary()
        }
        NodeEnum::CreateStmt(create) if !create.tablespacename.is_empty() => tablespace(),
        NodeEnum::CreateTableAsStmt(create)
            if create
                .into
                .as_ref()
                .and_then(|into| into.rel.as_ref())
                .is_some_and(|r| r.relpersistence == "t") =>
        {
            temporary()
        }
        NodeEnum::RenameStmt(rename) => refuse_rename(rename.rename_type),
        _ => refuse_unless_known(node),
    }
}

fn refuse_transaction(kind: i32) -> Answer {
    let word = match TransactionStmtKind::try_from(kind) {
        Ok(TransactionStmtKind::TransStmtSavepoint | TransactionStmtKind::TransStmtRelease) => "SAVEPOINT",
        _ => "BEGIN, COMMIT and ROLLBACK",
    };
    no(
        RefusalKind::TransactionControl,
        &format!("a version is applied in one transaction that Insula begins and ends: leave {word} out"),
    )
}

fn concurrently() -> Answer {
    no(
        RefusalKind::OutsideTransaction,
        "CONCURRENTLY cannot run in the transaction that a version is applied in: leave the word out",
    )
}

fn temporary() -> Answer {
    no(
        RefusalKind::TableKind,
        "a temporary table would outlive the version in Insula's session: use a query instead",
    )
}

fn tablespace() -> Answer {
    no(RefusalKind::BeyondPlacement, "tablespaces are a matter of the server, which the placement decides")
}

fn refuse_extension(name: &str, options: &[pg_query::Node]) -> Answer {
    if !EXTENSIONS.contains(&name) {
        return Some((
            RefusalKind::Extension,
            format!(
                "the extension {name} is not on the list of those that are known to be safe: {}",
                EXTENSIONS.join(", ")
            ),
        ));
    }
    if !options.is_empty() {
        return no(
            RefusalKind::Extension,
            "Insula decides the schema and the version of extensions: write CREATE EXTENSION IF NOT EXISTS with the name alone",
        );
    }
    None
}

fn refuse_function(function: &pg_query::protobuf::CreateFunctionStmt) -> Answer {
    for node in &function.options {
        let Some(NodeEnum::DefElem(option)) = &node.node else { continue };
        match option.defname.as_str() {
            "leakproof" if is_true(option) => {
                return no(
                    RefusalKind::Function,
                    "LEAKPROOF lets a function look at rows before row-level security does",
                );
            }
            "support" | "transform" => {
                return no(RefusalKind::Function, "SUPPORT and TRANSFORM are for functions written in C");
            }
            "set" => {
                if let Some(answer) =
                    option.arg.as_ref().and_then(|arg| refuse_function_setting(arg.node.as_ref()?))
                {
                    return Some(answer);
                }
            }
            _ => {}
        }
    }
    None
}

/// The settings that a function may bring: anything but another identity, and
/// of the search path only forms that do not name a schema.
pub(crate) fn refuse_function_setting(node: &NodeEnum) -> Answer {
    let NodeEnum::VariableSetStmt(set) = node else { return None };
    match set.name.to_ascii_lowercase().as_str() {
        "role" | "session_authorization" | "row_security" => {
            Some((RefusalKind::Function, format!("a function may not SET {}", set.name)))
        }
        "search_path" => {
            let from_current = set.kind == pg_query::protobuf::VariableSetKind::VarSetCurrent as i32;
            let names: Vec<_> = set.args.iter().filter_map(constant).collect();
            let fine = from_current
                || names.iter().all(|name| name.is_empty() || name == "pg_catalog" || name == "pg_temp");
            (!fine).then(|| {
                (
                    RefusalKind::SchemaName,
                    "the search path of a function names a schema, which the placement decides: write SET search_path FROM CURRENT"
                        .to_owned(),
                )
            })
        }
        _ => None,
    }
}

fn constant(node: &pg_query::Node) -> Option<String> {
    match node.node.as_ref()? {
        NodeEnum::AConst(value) => match value.val.as_ref()? {
            pg_query::protobuf::a_const::Val::Sval(text) => Some(text.sval.clone()),
            _ => None,
        },
        _ => None,
    }
}

/// Whether an option of a definition is on: its word alone, or a true value.
pub(crate) fn is_true(option: &pg_query::protobuf::DefElem) -> bool {
    match option.arg.as_ref().and_then(|arg| arg.node.as_ref()) {
        None => true,
        Some(NodeEnum::Boolean(value)) => value.boolval,
        Some(NodeEnum::Integer(value)) => value.ival != 0,
        Some(NodeEnum::String(text)) => {
            !matches!(text.sval.to_ascii_lowercase().as_str(), "false" | "off" | "no" | "0")
        }
        // OFF and NO are no reserved words, and read as the name of a type.
        Some(NodeEnum::TypeName(name)) => {
            let word = name.names.last().and_then(crate::names::text_of);
            !word.is_some_and(|word| matches!(word.as_str(), "off" | "no"))
        }
        Some(_) => true,
    }
}

fn refuse_alter_table(alter: &pg_query::protobuf::AlterTableStmt) -> Answer {
    if alter.objtype == ObjectType::ObjectForeignTable as i32 {
        return beyond();
    }
    for node in &alter.cmds {
        let Some(NodeEnum::AlterTableCmd(cmd)) = &node.node else { continue };
        match AlterTableType::try_from(cmd.subtype) {
            Ok(AlterTableType::AtChangeOwner) => {
                return no(
                    RefusalKind::RightsAndOwners,
                    "owners follow from the placement: leave OWNER TO out",
                );
            }
            Ok(AlterTableType::AtSetTableSpace) => return tablespace(),
            Ok(AlterTableType::AtDetachPartition | AlterTableType::AtDetachPartitionFinalize)
                if matches!(cmd.def.as_ref().and_then(|def| def.node.as_ref()),
                    Some(NodeEnum::PartitionCmd(partition)) if partition.concurrent) =>
            {
                return concurrently();
            }
            Ok(AlterTableType::AtEnableAlwaysTrig | AlterTableType::AtEnableReplicaTrig) => {
                return no(
                    RefusalKind::NotSupported,
                    "triggers that fire for replicated changes would fire twice while a tenant is moved",
                );
            }
            _ => {}
        }
    }
    None
}

fn refuse_drop(drop: &pg_query::protobuf::DropStmt) -> Answer {
    use ObjectType as T;
    match T::try_from(drop.remove_type) {
        Ok(T::ObjectExtension) => {
            no(RefusalKind::Extension, "an extension belongs to the database, where other tenants may use it")
        }
        Ok(T::ObjectSchema) => no(RefusalKind::SchemaName, "the placement decides the schema"),
        Ok(
            T::ObjectEventTrigger
            | T::ObjectFdw
            | T::ObjectForeignServer
            | T::ObjectForeignTable
            | T::ObjectLanguage
            | T::ObjectPublication
            | T::ObjectSubscription
            | T::ObjectAccessMethod,
        ) => beyond(),
        _ => None,
    }
}

fn refuse_comment(kind: i32) -> Answer {
    use ObjectType as T;
    match T::try_from(kind) {
        Ok(T::ObjectSchema) => no(
            RefusalKind::SchemaName,
            "the comment of the schema holds the version of the app schema that is applied there",
        ),
        Ok(
            T::ObjectDatabase
            | T::ObjectRole
            | T::ObjectTablespace
            | T::ObjectExtension
            | T::ObjectLargeobject,
        ) => beyond(),
        _ => None,
    }
}

fn refuse_rename(kind: i32) -> Answer {
    use ObjectType as T;
    match T::try_from(kind) {
        Ok(T::ObjectSchema | T::ObjectDatabase | T::ObjectRole | T::ObjectTablespace | T::ObjectLanguage) => {
            beyond()
        }
        _ => None,
    }
}

fn beyond() -> Answer {
    no(
        RefusalKind::BeyondPlacement,
        "it reaches beyond the tenant's placement: an app schema holds tables, types, views, functions and what belongs to them",
    )
}

/// What is left is taken when it is known, and refused when it is not.
fn refuse_unless_known(node: &NodeEnum) -> Answer {
    match node {
        NodeEnum::CreateStmt(_)
        | NodeEnum::CreateTableAsStmt(_)
        | NodeEnum::IndexStmt(_)
        | NodeEnum::ViewStmt(_)
        | NodeEnum::RefreshMatViewStmt(_)
        | NodeEnum::CreateSeqStmt(_)
        | NodeEnum::AlterSeqStmt(_)
        | NodeEnum::CreateEnumStmt(_)
        | NodeEnum::AlterEnumStmt(_)
        | NodeEnum::CompositeTypeStmt(_)
        | NodeEnum::CreateRangeStmt(_)
        | NodeEnum::CreateDomainStmt(_)
        | NodeEnum::AlterDomainStmt(_)
        | NodeEnum::AlterTypeStmt(_)
        | NodeEnum::DefineStmt(_)
        | NodeEnum::CreateCastStmt(_)
        | NodeEnum::AlterFunctionStmt(_)
        | NodeEnum::CreateTrigStmt(_)
        | NodeEnum::RuleStmt(_)
        | NodeEnum::CreatePolicyStmt(_)
        | NodeEnum::AlterPolicyStmt(_)
        | NodeEnum::CreateStatsStmt(_)
        | NodeEnum::AlterStatsStmt(_)
        | NodeEnum::ConstraintsSetStmt(_)
        | NodeEnum::TruncateStmt(_)
        | NodeEnum::LockStmt(_)
        | NodeEnum::AlterObjectDependsStmt(_) => None,
        _ if is_data(node) => None,
        NodeEnum::CopyStmt(_) => no(
            RefusalKind::NotSupported,
            "COPY moves rows through the client or the server's files, which a version has not: use INSERT",
        ),
        NodeEnum::DoStmt(_) => no(
            RefusalKind::NotSupported,
            "what a DO block does cannot be seen beforehand: write its statements out, or make a function and call it",
        ),
        NodeEnum::VacuumStmt(_)
        | NodeEnum::ClusterStmt(_)
        | NodeEnum::ReindexStmt(_)
        | NodeEnum::CheckPointStmt(_)
        | NodeEnum::CreatedbStmt(_)
        | NodeEnum::DropdbStmt(_)
        | NodeEnum::AlterSystemStmt(_)
        | NodeEnum::CreateTableSpaceStmt(_)
        | NodeEnum::DropTableSpaceStmt(_) => no(
            RefusalKind::OutsideTransaction,
            "it is upkeep of the server, not part of an app schema, and cannot run in a version's transaction",
        ),
        NodeEnum::ListenStmt(_) | NodeEnum::UnlistenStmt(_) | NodeEnum::NotifyStmt(_) => {
            no(RefusalKind::SessionState, "notifications are for running programs, not for a version")
        }
        NodeEnum::PrepareStmt(_)
        | NodeEnum::ExecuteStmt(_)
        | NodeEnum::DeallocateStmt(_)
        | NodeEnum::DeclareCursorStmt(_)
        | NodeEnum::FetchStmt(_)
        | NodeEnum::ClosePortalStmt(_)
        | NodeEnum::VariableShowStmt(_)
        | NodeEnum::LoadStmt(_) => {
            no(RefusalKind::SessionState, "it is about a session, not about an app schema")
        }
        NodeEnum::ExplainStmt(_) => no(RefusalKind::NotSupported, "EXPLAIN changes nothing: leave it out"),
        _ => beyond(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn migration(sql: &str) -> Migration {
        Migration::new(SchemaVersion(1), "test", sql)
    }

    fn refusals(sql: &str) -> Vec<(usize, RefusalKind)> {
        match check(&migration(sql)) {
            Ok(_) => Vec::new(),
            Err(Refusals(refusals)) => {
                refusals.into_iter().map(|refusal| (refusal.line, refusal.kind)).collect()
            }
        }
    }

    #[test]
    fn what_leaves_the_placement_is_refused() {
        use RefusalKind as K;
        let cases = [
            ("BEGIN", K::TransactionControl),
            ("COMMIT", K::TransactionControl),
            ("ROLLBACK", K::TransactionControl),
            ("SAVEPOINT a", K::TransactionControl),
            ("PREPARE TRANSACTION 'x'", K::TransactionControl),
            ("CREATE DATABASE d", K::OutsideTransaction),
            ("DROP DATABASE d", K::OutsideTransaction),
            ("CREATE ROLE r", K::BeyondPlacement),
            ("CREATE USER u", K::BeyondPlacement),
            ("ALTER ROLE r SUPERUSER", K::BeyondPlacement),
            ("DROP ROLE r", K::BeyondPlacement),
            ("CREATE TABLESPACE s LOCATION '/x'", K::OutsideTransaction),
            ("ALTER SYSTEM SET x = 1", K::OutsideTransaction),
            ("ALTER DATABASE d SET x = 1", K::BeyondPlacement),
            ("SET ROLE r", K::SessionState),
            ("SET SESSION AUTHORIZATION r", K::SessionState),
            ("SET search_path = x", K::SessionState),
            ("SET LOCAL statement_timeout = 0", K::SessionState),
            ("RESET ALL", K::SessionState),
            ("DISCARD ALL", K::SessionState),
            ("SELECT pg_catalog.set_config('search_path', '', false)", K::SessionState),
            ("GRANT SELECT ON t TO r", K::RightsAndOwners),
            ("REVOKE SELECT ON t FROM r", K::RightsAndOwners),
            ("GRANT r TO s", K::RightsAndOwners),
            ("ALTER TABLE t OWNER TO r", K::RightsAndOwners),
            ("ALTER FUNCTION f() OWNER TO r", K::RightsAndOwners),
            ("ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO r", K::RightsAndOwners),
            ("REASSIGN OWNED BY a TO b", K::RightsAndOwners),
            ("CREATE SCHEMA s", K::SchemaName),
            ("DROP SCHEMA s", K::SchemaName),
            ("ALTER TABLE t SET SCHEMA s", K::SchemaName),
            ("CREATE TABLE public.t (a int)", K::SchemaName),
            ("DROP TABLE public.t", K::SchemaName),
            ("DROP TRIGGER g ON public.t", K::SchemaName),
            ("DROP TYPE public.y", K::SchemaName),
            ("DROP FUNCTION public.f()", K::SchemaName),
            ("COMMENT ON TABLE public.t IS 'x'", K::SchemaName),
            ("COMMENT ON COLUMN public.t.a IS 'x'", K::SchemaName),
            ("COMMENT ON SCHEMA public IS 'x'", K::SchemaName),
            ("ALTER TYPE public.y RENAME TO z", K::SchemaName),
            ("SELECT insula.current_tenant()", K::SchemaName),
            ("CREATE TABLE pg_temp.t (a int)", K::SchemaName),
            (
                "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT count(*) FROM public.t'",
                K::SchemaName,
            ),
            (
                "CREATE FUNCTION f() RETURNS int LANGUAGE sql SET search_path = public AS 'SELECT 1'",
                K::SchemaName,
            ),
            ("CREATE FUNCTION f() RETURNS int LANGUAGE sql SET role = x AS 'SELECT 1'", K::Function),
            ("CREATE FUNCTION f() RETURNS int LANGUAGE sql LEAKPROOF AS 'SELECT 1'", K::Function),
            ("COPY t FROM STDIN", K::NotSupported),
            ("COPY t FROM PROGRAM 'x'", K::NotSupported),
            ("COPY t TO '/x'", K::NotSupported),
            ("VACUUM", K::OutsideTransaction),
            ("REINDEX TABLE t", K::OutsideTransaction),
            ("CREATE INDEX CONCURRENTLY i ON t (a)", K::OutsideTransaction),
            ("DROP INDEX CONCURRENTLY i", K::OutsideTransaction),
            ("CREATE EXTENSION dblink", K::Extension),
            ("CREATE EXTENSION citext SCHEMA public", K::SchemaName),
            ("DROP EXTENSION citext", K::Extension),
            ("DO $$ BEGIN NULL; END $$", K::NotSupported),
            ("CREATE EVENT TRIGGER e ON ddl_command_end EXECUTE FUNCTION f()", K::BeyondPlacement),
            ("CREATE PUBLICATION p", K::BeyondPlacement),
            ("CREATE SUBSCRIPTION s CONNECTION 'x' PUBLICATION p", K::BeyondPlacement),
            ("CREATE SERVER s FOREIGN DATA WRAPPER w", K::BeyondPlacement),
            ("CREATE FOREIGN TABLE t (a int) SERVER s", K::BeyondPlacement),
            ("CREATE LANGUAGE plperl", K::Extension),
            ("SECURITY LABEL ON TABLE t IS 'x'", K::BeyondPlacement),
            ("LISTEN c", K::SessionState),
            ("NOTIFY c", K::SessionState),
            ("PREPARE p AS SELECT 1", K::SessionState),
            ("CREATE TEMP TABLE t (a int)", K::TableKind),
            ("CREATE TEMP TABLE t AS SELECT 1", K::TableKind),
            ("CREATE TABLE t (a int) TABLESPACE s", K::BeyondPlacement),
            ("ALTER TABLE t SET TABLESPACE s", K::BeyondPlacement),
        ];
        for (sql, kind) in cases {
            let found = refusals(&format!("SELECT 1;\n{sql};"));
            let kind = if sql.contains("citext SCHEMA") { K::Extension } else { kind };
            assert_eq!(found, [(2, kind)], "{sql}");
        }
    }

    #[test]
    fn what_an_application_writes_is_taken() {
        for sql in [
            "CREATE EXTENSION IF NOT EXISTS citext",
            "CREATE TABLE t (a int PRIMARY KEY, b text COLLATE \"C\" CHECK (b ~ 'x'))",
            "CREATE UNLOGGED TABLE t (a int)",
            "CREATE TABLE t (a int) PARTITION BY RANGE (a)",
            "CREATE MATERIALIZED VIEW v AS SELECT 1",
            "CREATE FUNCTION f() RETURNS int LANGUAGE sql SECURITY DEFINER SET search_path FROM CURRENT AS 'SELECT 1'",
            "CREATE POLICY p ON t USING (true)",
            "ALTER TABLE t ENABLE ROW LEVEL SECURITY",
            "INSERT INTO t SELECT 1 FROM pg_catalog.pg_class",
            "TRUNCATE t",
            "COMMENT ON COLUMN t.a IS 'x'",
            "DROP TRIGGER g ON t",
            "SELECT setval('t_a_seq', 3)",
            "CREATE INDEX CONCURRENTLY i ON t (a);\nDROP INDEX CONCURRENTLY j",
        ] {
            assert_eq!(refusals(sql), [], "{sql}");
        }
    }

    #[test]
    fn all_refusals_of_a_file_come_at_once() {
        let refused = check(&migration("BEGIN;\nSELECT a.f(1), a.g(2);\nCOMMIT;")).unwrap_err();
        let lines: Vec<_> = refused.0.iter().map(|refusal| (refusal.line, refusal.column)).collect();
        assert_eq!(lines, [(1, 1), (2, 8), (2, 16), (3, 1)]);
        assert!(
            refused.to_string().starts_with("0001_test.sql:1:1: a version is applied in one transaction")
        );
    }

    #[test]
    fn extensions_are_blanked_and_statements_still_found() {
        let sql = "CREATE EXTENSION\n citext;\n-- c\nSELECT 'ä';\nINSERT INTO t VALUES (1)";
        let plain = check(&migration(sql)).unwrap();
        assert_eq!(plain.extensions(), ["citext"]);
        let blanked = plain.sql_without_extensions();
        assert_eq!(blanked.len(), sql.len());
        assert!(!blanked.contains("EXTENSION") && blanked.contains("SELECT 'ä'"));
        assert_eq!(plain.statement_count(), 2);
        let place = plain.statement(1).unwrap();
        assert_eq!((place.line, place.excerpt.as_str()), (5, "INSERT INTO t VALUES (1)"));
        let position = sql.chars().position(|c| c == 'ä').unwrap() + 1;
        assert_eq!(plain.line_of_character(position), 4);
        assert!(plain.has_data());
    }
}
