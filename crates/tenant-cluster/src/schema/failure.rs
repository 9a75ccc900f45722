//! A version that PostgreSQL refused, told in two ways: in words that hold no
//! value of any row, and in PostgreSQL's own, which may.

use std::fmt;

use insula_app_schema::AppliedVersion;
use insula_domain::{SchemaVersion, TenantId};
use insula_problem::{Code, Problem};
use insula_sql_store::{Discreet, Report};
use tokio_postgres::error::{DbError, ErrorPosition};

/// The source of a `migration_failed`: what the problem's own words leave out.
pub struct RowsDoNotFit {
    said: String,
    tenant: Option<TenantId>,
    version: Option<SchemaVersion>,
    sqlstate: Option<String>,
}

impl RowsDoNotFit {
    /// What is behind a problem, in words that may hold values of rows.
    pub(super) fn new(said: String, tenant: Option<TenantId>, version: Option<SchemaVersion>) -> Self {
        Self { said, tenant, version, sqlstate: None }
    }

    /// What is behind a problem, where it is one of these.
    #[must_use]
    pub fn behind(problem: &Problem) -> Option<&Self> {
        std::error::Error::source(problem)?.downcast_ref()
    }

    /// The same with more words that may hold values of rows.
    pub(super) fn adding(&self, sentence: &str) -> Self {
        Self {
            said: format!("{} {sentence}", self.said),
            tenant: self.tenant,
            version: self.version,
            sqlstate: self.sqlstate.clone(),
        }
    }

    /// PostgreSQL's own words, which may hold values of rows. They belong to
    /// whoever the rows belong to.
    #[must_use]
    pub fn said(&self) -> &str {
        &self.said
    }

    /// As which tenant the statement was run, where it was run as one.
    #[must_use]
    pub fn tenant(&self) -> Option<TenantId> {
        self.tenant
    }

    /// The version that failed.
    #[must_use]
    pub fn version(&self) -> Option<SchemaVersion> {
        self.version
    }

    /// PostgreSQL's code of the error, where it was one error.
    #[must_use]
    pub fn sqlstate(&self) -> Option<&str> {
        self.sqlstate.as_deref()
    }

    /// The problem in PostgreSQL's own words, for where the rows are the
    /// developer's alone: a rehearsal, a template.
    #[must_use]
    pub fn in_full(problem: Problem) -> Problem {
        match Self::behind(&problem) {
            Some(behind) => Problem::new(problem.code(), behind.said.clone()),
            None => problem,
        }
    }
}

impl fmt::Display for RowsDoNotFit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("what PostgreSQL said is kept with the tenant's data")
    }
}

impl fmt::Debug for RowsDoNotFit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RowsDoNotFit({self})")
    }
}

impl std::error::Error for RowsDoNotFit {}

/// Where a statement of a version stands, and as whom it was run.
#[derive(Debug, Default)]
pub(super) struct Place<'a> {
    /// `file:line`.
    pub(super) text: String,
    /// The statement, as far as it is shown.
    pub(super) statement: &'a str,
    pub(super) version: Option<SchemaVersion>,
    pub(super) tenant: Option<TenantId>,
}

impl Place<'_> {
    /// Somewhere in the file of a version.
    pub(super) fn of(file: &str, applied: &AppliedVersion) -> Self {
        Self { text: file.to_owned(), version: Some(applied.version), ..Self::default() }
    }

    /// Beside all files.
    pub(super) fn elsewhere() -> Self {
        Self { text: "the app schema".to_owned(), ..Self::default() }
    }

    /// Where a tenant begins with the rows that the versions have left.
    pub(super) fn new_tenant() -> Self {
        Self { text: "the rows with which a new tenant would begin".to_owned(), ..Self::default() }
    }
}

/// The problem of a statement that PostgreSQL refused.
pub(super) fn migration_failed(error: &DbError, place: &Place<'_>) -> Problem {
    let advice = advice(error, place.statement);
    let told = |what: &str| format!("{}: {what} ({}). {advice}", place.text, error.code().code());
    let mut said = error.message().to_owned();
    for more in [error.detail(), error.where_()].into_iter().flatten() {
        said.push_str(&format!(". {}", more.trim_end_matches('.')));
    }
    if let Some(hint) = error.hint() {
        said.push_str(&format!(". {}", hint.trim_end_matches('.')));
    }
    let behind = RowsDoNotFit {
        said: told(&said).trim_end().to_owned(),
        tenant: place.tenant,
        version: place.version,
        sqlstate: Some(error.code().code().to_owned()),
    };
    Problem::new(Code::MigrationFailed, told(&in_names(error)).trim_end())
        .at(place.text.clone(), place.statement)
        .caused_by(behind)
}

/// The error without anything that may be of a row.
///
/// A message that comes with a position in the statement was made when the
/// statement was read, and no row had been. Every other message may hold a
/// value, whatever its class: `name::regclass` says which relation is not
/// there, and `RAISE` says anything.
fn in_names(error: &DbError) -> String {
    let read_only_the_statement =
        matches!(error.position(), Some(ErrorPosition::Original(_))) && error.where_().is_none();
    if read_only_the_statement {
        let hint = error.hint().map(|hint| format!(". {}", hint.trim_end_matches('.'))).unwrap_or_default();
        return format!("{}{hint}", error.message());
    }
    Report::from(error).in_names()
}

/// What the server said behind a problem, without values of rows: the names
/// that it gives, its words where they can be of objects alone, its SQLSTATE.
#[must_use]
pub fn said_by_server(problem: &Problem) -> Option<String> {
    let mut next = std::error::Error::source(problem);
    while let Some(cause) = next {
        if let Some(said) = cause.downcast_ref::<Discreet>().and_then(Discreet::said) {
            return Some(said);
        }
        next = cause.source();
    }
    None
}

/// What can be said beside the error, and the statement.
fn advice(error: &DbError, statement: &str) -> String {
    let mut text = String::new();
    if *error.code() == tokio_postgres::error::SqlState::GROUPING_ERROR {
        text.push_str(
            "In shared tables the primary key begins with tenant_id, so that GROUP BY its other columns does not \
             take in the rest of the row: name every column. ",
        );
    }
    if !statement.is_empty() {
        text.push_str(&format!("In: {statement}"));
    }
    text
}
