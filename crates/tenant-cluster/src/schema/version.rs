//! The version that a schema has, kept as the schema's comment.

use insula_app_schema::AppliedVersion;
use insula_domain::{SchemaName, SchemaVersion};
use insula_problem::{Code, Problem};
use tokio_postgres::Client;

use crate::{db, literal};

/// The version that is applied to a schema; none where it has none.
///
/// # Errors
/// Where the cluster is away.
pub async fn applied_version(
    client: &Client,
    schema: &SchemaName,
) -> Result<Option<AppliedVersion>, Problem> {
    let row = client
        .query_one("select obj_description(to_regnamespace($1)::oid, 'pg_namespace')", &[&schema.as_str()])
        .await
        .map_err(db)?;
    Ok(row.get::<_, Option<String>>(0).and_then(|comment| parse(&comment)))
}

/// The statement that notes a version.
pub(super) fn note(schema: &SchemaName, version: &AppliedVersion) -> String {
    format!("comment on schema {schema} is {}", literal(&comment(version)))
}

fn comment(version: &AppliedVersion) -> String {
    format!("app schema version {}, sha256 {}", version.version, version.sha256)
}

fn parse(comment: &str) -> Option<AppliedVersion> {
    let (version, sha256) = comment.strip_prefix("app schema version ")?.split_once(", sha256 ")?;
    Some(AppliedVersion { version: SchemaVersion(version.parse().ok()?), sha256: sha256.to_owned() })
}

/// What there is to do for a version, seeing what is applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Todo {
    /// It is applied, or a later one is.
    Nothing,
    /// It is the next one.
    Apply,
}

/// Decides what there is to do.
pub(super) fn todo(applied: Option<&AppliedVersion>, wanted: &AppliedVersion) -> Result<Todo, Problem> {
    let at = applied.map_or(SchemaVersion(0), |applied| applied.version);
    if at > wanted.version {
        return Ok(Todo::Nothing);
    }
    if at == wanted.version {
        let same = applied.is_none_or(|applied| applied.sha256 == wanted.sha256);
        let changed = format!("Version {at} is applied there with another text.");
        return if same { Ok(Todo::Nothing) } else { Err(Problem::new(Code::MigrationChanged, changed)) };
    }
    if at.0 + 1 == wanted.version.0 {
        return Ok(Todo::Apply);
    }
    Err(Problem::internal(format!("version {} cannot follow version {at}", wanted.version)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(number: i32, sha256: &str) -> AppliedVersion {
        AppliedVersion { version: SchemaVersion(number), sha256: sha256.to_owned() }
    }

    #[test]
    fn the_comment_is_read_back() {
        let three = version(3, "ab12");
        assert_eq!(parse(&comment(&three)), Some(three));
        assert_eq!(parse("standard public schema"), None);
    }

    #[test]
    fn versions_are_applied_once_and_in_order() {
        let one = version(1, "a");
        assert_eq!(todo(None, &one).unwrap(), Todo::Apply);
        assert_eq!(todo(Some(&one), &one).unwrap(), Todo::Nothing);
        assert_eq!(todo(Some(&version(2, "b")), &one).unwrap(), Todo::Nothing);
        assert_eq!(todo(Some(&one), &version(2, "b")).unwrap(), Todo::Apply);
        assert_eq!(todo(Some(&one), &version(1, "b")).unwrap_err().code(), Code::MigrationChanged);
        assert_eq!(todo(Some(&one), &version(3, "c")).unwrap_err().code(), Code::Internal);
    }
}
