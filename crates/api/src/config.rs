//! Values of the configuration, and what is done to them.

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use time::OffsetDateTime;
use utoipa::ToSchema;

use crate::config_rollout::ConfigStage;

/// `null` is a document like every other; only what is left out is none.
pub(crate) fn document<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Box<RawValue>>, D::Error> {
    Box::<RawValue>::deserialize(deserializer).map(Some)
}

/// A version of a value.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ConfigEntry {
    /// Its key.
    pub key: String,
    /// Where it is set: `platform`, `region/<name>`, `tier/<name>`, `tenant/<id>`.
    pub scope: String,
    /// 1, 2, 3 … in this scope.
    pub version: i64,
    /// The change that made it.
    pub revision: i64,
    /// The JSON document; none where it is sealed, large or removed.
    #[serde(default, deserialize_with = "document", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<serde_json::Value>)]
    pub value: Option<Box<RawValue>>,
    /// A large value, which is fetched apart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blob: Option<ConfigBlob>,
    /// Whether it is a secret that is not shown.
    #[serde(default)]
    pub sealed: bool,
    /// Whether it is a secret, also where it is shown in clear: it is not for disks
    /// and error messages.
    #[serde(default)]
    pub secret: bool,
    /// Whether this version says that there is no value.
    #[serde(default)]
    pub removed: bool,
    /// The labels on this version.
    #[serde(default)]
    pub labels: Vec<String>,
    /// Who wrote it.
    pub author: String,
    /// When.
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    /// What its author says of it.
    #[serde(default)]
    pub note: String,
}

/// A large value, by what it contains.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ConfigBlob {
    /// SHA-256 of the bytes, in hexadecimal digits.
    pub sha256: String,
    /// How many bytes.
    pub bytes: i64,
    /// The media type.
    pub media_type: String,
}

/// What came of a write.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ConfigWritten {
    /// The version that was made, or that has the label now.
    pub version: i64,
    /// The change.
    pub revision: i64,
}

/// What a scope says of a key.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ConfigLayer {
    /// Which scope.
    pub scope: String,
    /// What is set there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entry: Option<ConfigEntry>,
    /// Whether it is what is seen.
    pub effective: bool,
    /// Why it does not count, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passed_over: Option<String>,
    /// Where the newest version is being rolled out in stages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<ConfigStage>,
}

/// Where a value comes from.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ConfigExplained {
    /// Every scope that counts, the strongest first.
    pub layers: Vec<ConfigLayer>,
}

/// To which version a key goes back.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RollbackConfig {
    /// By its number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<i64>,
    /// By a label; `previous` where neither is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// What is said of it.
    #[serde(default)]
    pub note: String,
}

/// On which version a label is to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LabelConfig {
    /// Its number.
    pub version: i64,
}

/// Writes that are done all or none.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TransactConfig {
    /// 1 to 100, in their order.
    pub writes: Vec<ConfigWrite>,
}

/// A write of a transaction.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ConfigWrite {
    /// To which key.
    pub key: String,
    /// In which scope; that of the request where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
    /// What is done.
    pub act: ConfigAct,
    /// The document that is put.
    #[serde(default, deserialize_with = "document", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<serde_json::Value>)]
    pub value: Option<Box<RawValue>>,
    /// Or the large value that is put.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub large: Option<ConfigLarge>,
    /// The version that is gone back to, or that gets the label.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<i64>,
    /// The label that is gone back to, or that is put or taken away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// Only where the newest version is this one; 0 is where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub if_version: Option<i64>,
    /// What is said of it.
    #[serde(default)]
    pub note: String,
}

/// A large value in a JSON document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ConfigLarge {
    /// Its bytes in base64 (RFC 4648, section 4).
    pub base64: String,
    /// The media type.
    pub media_type: String,
}

/// What a write does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ConfigAct {
    /// Sets a value.
    Put,
    /// Removes it.
    Remove,
    /// Sets the value of an older version.
    Rollback,
    /// Puts a label on a version; without one, takes it away.
    Label,
}

/// What came of a transaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ConfigTransacted {
    /// In the order of the writes.
    pub written: Vec<ConfigWritten>,
}

/// What a watch tells, as the data of a server-sent event.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ConfigEvent {
    /// The change up to which it is true.
    pub revision: i64,
    /// What is seen now: of a snapshot, everything; of a delta, what has changed.
    #[serde(default)]
    pub entries: Vec<ConfigEntry>,
    /// The keys under which nothing is seen any more.
    #[serde(default)]
    pub removed: Vec<String>,
    /// Whether more parts of a snapshot follow.
    #[serde(default)]
    pub more: bool,
    /// Why there is a snapshot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Who the client is, for what it says of what it has received: of a snapshot
    /// and a heartbeat.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
}

/// What a client says of what it has received.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AcknowledgeConfig {
    /// Up to which change it has taken over what it has received.
    #[serde(default)]
    pub revision: i64,
    /// What it runs with, or refuses to; 500 at the most.
    #[serde(default)]
    pub states: Vec<ConfigClientState>,
}

/// That a client runs with a version, or refuses to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ConfigClientState {
    /// Of which key.
    pub key: String,
    /// The version, which is written; 0 is none.
    pub version: i64,
    /// Why it does not run with it; left out where it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rejection: Option<String>,
    /// The scope in which the version is set; where the tenant sees the key now
    /// where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
}

/// That somebody was shown a secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ConfigRead {
    /// Under which key.
    pub key: String,
    /// Which version.
    pub version: i64,
    /// Who: `key:` and the id of an API key, or `operator:` and an e-mail address.
    pub reader: String,
    /// When.
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
}
