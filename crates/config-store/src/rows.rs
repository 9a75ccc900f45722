//! Between rows and versions.

use bytes::Bytes;
use insula_config_model::{
    BlobRef, ConfigKey, ConfigValue, Label, Layer, Rollout, Scope, Staged, Stored, author_of,
};
use insula_problem::Problem;
use tokio_postgres::Row;

/// The columns of a version, `v` where nothing else is said, in the order of
/// [`version_at`].
macro_rules! version_columns {
    () => {
        $crate::rows::version_columns!("v")
    };
    ($v:literal) => {
        concat!(
            $v,
            ".scope, ",
            $v,
            ".key, ",
            $v,
            ".version, ",
            $v,
            ".revision, ",
            $v,
            ".kind, ",
            $v,
            ".value, ",
            $v,
            ".author, ",
            $v,
            ".at, ",
            $v,
            ".note, \
            array(select l.label from config_labels l where l.scope = ",
            $v,
            ".scope and l.key = ",
            $v,
            ".key \
                  and l.version = ",
            $v,
            ".version)"
        )
    };
}
pub(crate) use version_columns;

/// How many bytes a version is on its way to a caller, and some more: with its
/// key, its note and its labels.
macro_rules! version_bytes {
    ($v:literal) => {
        concat!(
            "(coalesce(octet_length(",
            $v,
            ".value), 0) + octet_length(",
            $v,
            ".key) + octet_length(",
            $v,
            ".note) + octet_length(",
            $v,
            ".author) + 200 + coalesce((select sum(octet_length(l.label) + 4) from config_labels l
                where l.scope = ",
            $v,
            ".scope and l.key = ",
            $v,
            ".key and l.version = ",
            $v,
            ".version), 0))"
        )
    };
}
pub(crate) use version_bytes;

/// The columns of a newest version `v`, of the rollout of its key, and of the
/// version before it, in the order of [`layer_at`]. It goes with [`layer_joins`].
macro_rules! layer_columns {
    () => {
        concat!(
            $crate::rows::version_columns!(),
            ", case when rv.kind = 1 then rv.value end, ",
            $crate::rows::version_columns!("p")
        )
    };
}
pub(crate) use layer_columns;

macro_rules! layer_joins {
    () => {
        " left join config_values rn on rn.scope = v.scope and rn.key = 'insula_rollout/' || v.key
          left join config_versions rv on rv.scope = rn.scope and rv.key = rn.key and rv.version = rn.version
          left join config_versions p
            on rv.kind = 1 and p.scope = v.scope and p.key = v.key and p.version = v.version - 1 "
    };
}
pub(crate) use layer_joins;

/// The revision of the newest change of the schemas that are set in a scope; one
/// that nobody knows where that scope is a tenant's that is not read here now.
macro_rules! newest_schema {
    ($scope:literal) => {
        concat!(
            "case when ",
            $scope,
            " like 'tenant/%' and not exists (
                select from config_homes ho where ho.scope = ",
            $scope,
            " and ho.state = 'open') then -1
            else coalesce((select max(sv.revision) from config_values sn
                join config_versions sv on sv.scope = sn.scope and sv.key = sn.key and sv.version = sn.version
                where sn.scope = ",
            $scope,
            " and sn.key >= 'insula_schema/' and sn.key < 'insula_schema0'), 0) end"
        )
    };
}
pub(crate) use newest_schema;

/// How a value is kept.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Kept {
    pub kind: i16,
    pub value: Option<Vec<u8>>,
    pub key_generation: Option<i32>,
}

const REMOVAL: i16 = 0;
const JSON: i16 = 1;
const SECRET: i16 = 2;
const BLOB: i16 = 3;

/// Whether a kind, as it is kept, is that of a removal.
pub(crate) fn is_removal(kind: i16) -> bool {
    kind == REMOVAL
}

/// How a value is kept. A secret has to be sealed before.
pub(crate) fn kept(value: Option<&ConfigValue>) -> Result<Kept, Problem> {
    let plain = |kind, value| Kept { kind, value: Some(value), key_generation: None };
    Ok(match value {
        None => Kept { kind: REMOVAL, value: None, key_generation: None },
        Some(ConfigValue::Json(text)) => plain(JSON, text.to_vec()),
        Some(ConfigValue::Blob(blob)) => plain(BLOB, serde_json::to_vec(blob).map_err(Problem::internal)?),
        Some(ConfigValue::Sealed(envelope)) => {
            let generation = insula_credentials::envelope_generation(envelope).map_err(Problem::internal)?;
            let key_generation = Some(i32::try_from(generation).map_err(Problem::internal)?);
            Kept { kind: SECRET, value: Some(envelope.to_vec()), key_generation }
        }
        Some(ConfigValue::Secret(_)) => return Err(Problem::internal("a secret would be kept in clear")),
    })
}

/// The value that is kept; a secret stays sealed.
pub(crate) fn value(kind: i16, kept: Option<Vec<u8>>) -> Result<Option<ConfigValue>, Problem> {
    let value = match (kind, kept) {
        (REMOVAL, None) => None,
        (JSON, Some(text)) => Some(ConfigValue::Json(Bytes::from(text))),
        (SECRET, Some(envelope)) => Some(ConfigValue::Sealed(Bytes::from(envelope))),
        (BLOB, Some(text)) => {
            let blob: BlobRef = serde_json::from_slice(&text).map_err(Problem::internal)?;
            Some(ConfigValue::Blob(blob))
        }
        _ => return Err(Problem::internal("a value is kept in no known way")),
    };
    Ok(value)
}

/// The version whose columns begin at this number; none where they are null.
pub(crate) fn version_at(row: &Row, first: usize) -> Result<Option<Stored>, Problem> {
    let Some(scope) = row.get::<_, Option<&str>>(first) else { return Ok(None) };
    let labels: Vec<&str> = row.get(first + 9);
    let labels: Result<_, _> = labels.into_iter().map(str::parse::<Label>).collect();
    Ok(Some(Stored {
        scope: self::scope(scope)?,
        key: key(row.get(first + 1))?,
        version: row.get(first + 2),
        revision: row.get(first + 3),
        value: value(row.get(first + 4), row.get(first + 5))?,
        author: author_of(row.get(first + 6)).to_owned(),
        at: row.get(first + 7),
        note: row.get(first + 8),
        labels: labels.map_err(Problem::internal)?,
    }))
}

/// The newest version whose columns begin at this number, with what of it is
/// being rolled out; none where they are null.
pub(crate) fn layer_at(row: &Row, first: usize) -> Result<Option<Layer>, Problem> {
    let Some(stored) = version_at(row, first)? else { return Ok(None) };
    let staged = match row.get::<_, Option<&[u8]>>(first + 10) {
        Some(json) => {
            let rollout: Rollout = serde_json::from_slice(json).map_err(Problem::internal)?;
            let is_staged = rollout.is_about(stored.version);
            is_staged.then_some(Staged { rollout, before: version_at(row, first + 11)? })
        }
        None => None,
    };
    Ok(Some(Layer { scope: stored.scope.clone(), stored: Some(stored), staged }))
}

pub(crate) fn scope(text: &str) -> Result<Scope, Problem> {
    text.parse().map_err(Problem::internal)
}

pub(crate) fn key(text: &str) -> Result<ConfigKey, Problem> {
    text.parse().map_err(Problem::internal)
}
