//! Writing: values, removals, rollbacks, labels, alone or several at once.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{FromRequest, Request, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use insula_api::{
    ConfigAct, ConfigLarge, ConfigTransacted, ConfigWrite, ConfigWritten, LabelConfig, RollbackConfig,
    TransactConfig,
};
use insula_config_model::LABEL_PREVIOUS;
use insula_problem::{Code, Problem};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use utoipa::IntoParams;

use super::call::{ApiError, Call, Values};
use super::documents::written;
use crate::service::Service;
use crate::writing::{NewOp, NewWrite, To, check_count};

/// What is said of a write.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct WriteQuery {
    /// A note, 500 bytes at the most.
    #[serde(default)]
    note: String,
}

pub(super) async fn bytes(request: Request) -> Result<Bytes, ApiError> {
    let unreadable = |rejection: BytesRejection| {
        let is_large = rejection.into_response().status() == StatusCode::PAYLOAD_TOO_LARGE;
        ApiError(if is_large {
            Problem::new(Code::RequestTooLarge, "The body is larger than it may be.")
        } else {
            Problem::new(Code::InvalidRequest, "The body cannot be read.")
        })
    };
    Bytes::from_request(request, &()).await.map_err(unreadable)
}

fn media_type(request: &Request) -> String {
    let value = request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim().to_owned()
}

pub(super) async fn body<T: DeserializeOwned>(request: Request) -> Result<T, ApiError> {
    if media_type(&request) != "application/json" {
        let detail = "The body must be JSON: Content-Type: application/json.";
        return Err(Problem::new(Code::UnsupportedMediaType, detail).into());
    }
    let bytes = bytes(request).await?;
    let unfit = |error: serde_json::Error| {
        // What stands around the place is not shown: values may be secrets.
        Problem::new(
            Code::InvalidRequest,
            format!("The body does not fit, at line {}, column {}.", error.line(), error.column()),
        )
    };
    Ok(serde_json::from_slice(&bytes).map_err(unfit)?)
}

impl Call {
    fn write(&self, op: NewOp, note: String) -> NewWrite {
        NewWrite { scope: self.scope.clone(), key: self.key(), op, if_version: self.if_version, note }
    }

    async fn done(&self, service: &Service, write: NewWrite) -> Result<Json<ConfigWritten>, ApiError> {
        let done = service.transact(&self.caller, vec![write], self.token.clone()).await?;
        let first = done.first().ok_or_else(|| Problem::internal("a write has no answer"))?;
        Ok(Json(written(first)))
    }
}

/// Set a value
///
/// The body is the JSON document itself, or with another media type a large
/// value. `If-Match` and `If-None-Match: *` make it conditional.
#[utoipa::path(
    put, path = "/config/{key}", tag = "config", security(("operator" = []), ("tenant" = [])),
    params(
        ("key" = String, Path, description = "The key; its slashes are %2F"),
        ("scope" = Option<String>, Query, description = "platform, region/NAME, tier/NAME or tenant/SLUG"), WriteQuery,
        ("If-Match" = Option<String>, Header, description = "The ETag of the version that is to be the newest"),
        ("Idempotency-Key" = Option<String>, Header, description = "1 to 200 visible characters"),
    ),
    request_body = serde_json::Value,
    responses((status = 200, body = ConfigWritten))
)]
pub async fn put_config(
    State(service): State<Arc<Service>>,
    call: Call,
    Values(query): Values<WriteQuery>,
    request: Request,
) -> Result<Json<ConfigWritten>, ApiError> {
    let media_type = media_type(&request);
    let bytes = bytes(request).await?;
    let op = match media_type.as_str() {
        "application/json" => NewOp::Put(bytes),
        "" => return Err(Problem::new(Code::UnsupportedMediaType, "The body has no Content-Type.").into()),
        _ => NewOp::PutLarge { bytes, media_type },
    };
    call.done(&service, call.write(op, query.note)).await
}

/// Remove a value
///
/// A new version says that there is none; what is set further away shows again.
#[utoipa::path(
    delete, path = "/config/{key}", tag = "config", security(("operator" = []), ("tenant" = [])),
    params(
        ("key" = String, Path, description = "The key; its slashes are %2F"),
        ("scope" = Option<String>, Query, description = "platform, region/NAME, tier/NAME or tenant/SLUG"), WriteQuery,
        ("If-Match" = Option<String>, Header, description = "The ETag of the version that is to be the newest"),
        ("Idempotency-Key" = Option<String>, Header, description = "1 to 200 visible characters"),
    ),
    responses((status = 200, body = ConfigWritten))
)]
pub async fn remove_config(
    State(service): State<Arc<Service>>,
    call: Call,
    Values(query): Values<WriteQuery>,
) -> Result<Json<ConfigWritten>, ApiError> {
    call.done(&service, call.write(NewOp::Remove, query.note)).await
}

/// Set the value of an older version again
///
/// The rollback is a new version.
#[utoipa::path(
    post, path = "/config/{key}/rollback", tag = "config", security(("operator" = []), ("tenant" = [])),
    params(
        ("key" = String, Path, description = "The key; its slashes are %2F"),
        ("scope" = Option<String>, Query, description = "platform, region/NAME, tier/NAME or tenant/SLUG"),
        ("If-Match" = Option<String>, Header, description = "The ETag of the version that is to be the newest"),
        ("Idempotency-Key" = Option<String>, Header, description = "1 to 200 visible characters"),
    ),
    request_body = RollbackConfig,
    responses((status = 200, body = ConfigWritten))
)]
pub async fn roll_config_back(
    State(service): State<Arc<Service>>,
    call: Call,
    request: Request,
) -> Result<Json<ConfigWritten>, ApiError> {
    let asked: RollbackConfig = body(request).await?;
    let to = to(asked.version, asked.label)?;
    call.done(&service, call.write(NewOp::Rollback(to), asked.note)).await
}

pub(super) fn to(version: Option<i64>, label: Option<String>) -> Result<To, Problem> {
    match (version, label) {
        (Some(_), Some(_)) => {
            Err(Problem::new(Code::InvalidRequest, "A version is named by its number or by a label."))
        }
        (Some(version), None) => Ok(To::Version(version)),
        (None, label) => Ok(To::Label(label.unwrap_or_else(|| LABEL_PREVIOUS.to_owned()))),
    }
}

/// Put a label on a version
///
/// It is taken from the version that had it.
#[utoipa::path(
    put, path = "/config/{key}/labels/{label}", tag = "config", security(("operator" = []), ("tenant" = [])),
    params(
        ("key" = String, Path, description = "The key; its slashes are %2F"),
        ("label" = String, Path, description = "The label"),
        ("scope" = Option<String>, Query, description = "platform, region/NAME, tier/NAME or tenant/SLUG")
    ),
    request_body = LabelConfig,
    responses((status = 200, body = ConfigWritten))
)]
pub async fn label_config(
    State(service): State<Arc<Service>>,
    call: Call,
    request: Request,
) -> Result<Json<ConfigWritten>, ApiError> {
    let asked: LabelConfig = body(request).await?;
    let op = NewOp::Label { label: call.part("label"), version: Some(asked.version) };
    call.done(&service, call.write(op, String::new())).await
}

/// Take a label away
#[utoipa::path(
    delete, path = "/config/{key}/labels/{label}", tag = "config", security(("operator" = []), ("tenant" = [])),
    params(
        ("key" = String, Path, description = "The key; its slashes are %2F"),
        ("label" = String, Path, description = "The label"),
        ("scope" = Option<String>, Query, description = "platform, region/NAME, tier/NAME or tenant/SLUG")
    ),
    responses((status = 200, body = ConfigWritten))
)]
pub async fn unlabel_config(
    State(service): State<Arc<Service>>,
    call: Call,
) -> Result<Json<ConfigWritten>, ApiError> {
    let op = NewOp::Label { label: call.part("label"), version: None };
    call.done(&service, call.write(op, String::new())).await
}

/// Do several writes, all or none
///
/// At `/v1/config` each can name a scope of its own: all the provider's, or all of
/// tenants of one region.
#[utoipa::path(
    post, path = "/config", tag = "config", security(("operator" = []), ("tenant" = [])),
    params(
        ("scope" = Option<String>, Query, description = "platform, region/NAME, tier/NAME or tenant/SLUG"),
        ("Idempotency-Key" = Option<String>, Header, description = "1 to 200 visible characters"),
    ),
    request_body = TransactConfig,
    responses((status = 200, body = ConfigTransacted))
)]
pub async fn transact_config(
    State(service): State<Arc<Service>>,
    call: Call,
    request: Request,
) -> Result<Json<ConfigTransacted>, ApiError> {
    if call.if_version.is_some() {
        let detail = "Several writes have no condition in a header: each says its own if_version.";
        return Err(Problem::new(Code::InvalidRequest, detail).into());
    }
    let asked: TransactConfig = body(request).await?;
    check_count(asked.writes.len())?;
    let writes = asked.writes.into_iter().enumerate();
    let writes = writes.map(|(index, write)| one(&call, index, write)).collect::<Result<Vec<_>, _>>()?;
    let done = service.transact(&call.caller, writes, call.token.clone()).await?;
    Ok(Json(ConfigTransacted { written: done.iter().map(written).collect() }))
}

/// A value in a JSON body: a document, or a large value; none where it is left out.
pub(super) fn put(
    value: Option<Box<RawValue>>,
    large: Option<ConfigLarge>,
    at: &str,
) -> Result<Option<NewOp>, Problem> {
    let invalid = |detail: &str, rule: &str| {
        Err(Problem::new(Code::InvalidRequest, detail).at(format!("{at}/large"), rule))
    };
    match (value, large) {
        (Some(_), Some(_)) => invalid("A value is a document or a large one.", "stands beside a document"),
        (Some(value), None) => Ok(Some(NewOp::Put(Bytes::copy_from_slice(value.get().as_bytes())))),
        (None, Some(large)) => match STANDARD.decode(large.base64) {
            Ok(bytes) => Ok(Some(NewOp::PutLarge { bytes: bytes.into(), media_type: large.media_type })),
            Err(_) => invalid("The bytes of a large value are written in base64.", "is not base64"),
        },
        (None, None) => Ok(None),
    }
}

fn one(call: &Call, index: usize, write: ConfigWrite) -> Result<NewWrite, Problem> {
    let missing = |what: &str| {
        let pointer = format!("/writes/{index}/{what}");
        Problem::new(Code::InvalidRequest, format!("{pointer} is missing.")).at(pointer, "is missing")
    };
    let op = match write.act {
        ConfigAct::Put => {
            put(write.value, write.large, &format!("/writes/{index}"))?.ok_or_else(|| missing("value"))?
        }
        ConfigAct::Remove => NewOp::Remove,
        ConfigAct::Rollback => NewOp::Rollback(to(write.version, write.label)?),
        ConfigAct::Label => {
            NewOp::Label { label: write.label.ok_or_else(|| missing("label"))?, version: write.version }
        }
    };
    let scope = call.scope_of(write.scope)?;
    Ok(NewWrite { scope, key: write.key, op, if_version: write.if_version, note: write.note })
}
