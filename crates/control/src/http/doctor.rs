//! `POST /v1/doctor`

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use insula_api::DoctorReport;

use super::auth::Operator;
use super::error::ApiError;
use crate::Control;

/// Examine the live system
///
/// Compares the catalog with what is really on the clusters and in the region
/// stores, and changes nothing of either. On a cluster with tenants of their own
/// places it makes a database for the comparison, and removes it.
#[utoipa::path(
    post, path = "/v1/doctor", tag = "doctor", security(("operator" = [])),
    responses((status = 200, body = DoctorReport))
)]
pub async fn examine(
    State(control): State<Arc<Control>>,
    _operator: Operator,
) -> Result<Json<DoctorReport>, ApiError> {
    Ok(Json(crate::doctor::examine(&control).await?))
}
