//! `/v1/regions` and `/v1/clusters`

use std::collections::HashMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use insula_api::{AddCluster, Cluster, Page, Region};
use insula_domain::ClusterName;
use insula_problem::{Code, Problem};

use super::auth::Operator;
use super::error::ApiError;
use super::extract::{Body, Named};
use crate::clusters::{shown, shown_now};
use crate::{Control, registration};

/// List regions
#[utoipa::path(
    get, path = "/v1/regions", tag = "clusters", security(("operator" = [])),
    responses((status = 200, body = Page<Region>))
)]
pub async fn list_regions(
    State(control): State<Arc<Control>>,
    _operator: Operator,
) -> Result<Json<Page<Region>>, ApiError> {
    let regions = control.catalog.client().await?.regions().await?;
    let items = regions
        .into_iter()
        .map(|region| Region { name: region.name, groups: region.groups.into_iter().collect() })
        .collect();
    Ok(Json(Page { items, next_cursor: None }))
}

/// List clusters
#[utoipa::path(
    get, path = "/v1/clusters", tag = "clusters", security(("operator" = [])),
    responses((status = 200, body = Page<Cluster>))
)]
pub async fn list_clusters(
    State(control): State<Arc<Control>>,
    _operator: Operator,
) -> Result<Json<Page<Cluster>>, ApiError> {
    let client = control.catalog.client().await?;
    let tenants: HashMap<_, _> = client.cluster_tenants().await?.into_iter().collect();
    let items = client
        .clusters()
        .await?
        .into_iter()
        .map(|cluster| {
            let used = tenants.get(&cluster.name).copied().unwrap_or(0);
            shown_now(&control, cluster, used)
        })
        .collect();
    Ok(Json(Page { items, next_cursor: None }))
}

/// Show a cluster
#[utoipa::path(
    get, path = "/v1/clusters/{cluster}", tag = "clusters", security(("operator" = [])),
    params(("cluster" = String, Path, description = "Name")),
    responses((status = 200, body = Cluster), (status = 404, body = insula_api::ProblemBody, content_type = "application/problem+json"))
)]
pub async fn show_cluster(
    State(control): State<Arc<Control>>,
    _operator: Operator,
    Named(cluster): Named<String>,
) -> Result<Json<Cluster>, ApiError> {
    let client = control.catalog.client().await?;
    let found = match cluster.parse::<ClusterName>() {
        Ok(name) => client.cluster(&name).await?,
        Err(_) => None,
    };
    let record = found.ok_or_else(|| Problem::new(Code::NotFound, "There is no cluster of this name."))?;
    let tenants: HashMap<_, _> = client.cluster_tenants().await?.into_iter().collect();
    let used = tenants.get(&record.name).copied().unwrap_or(0);
    Ok(Json(shown_now(&control, record, used)))
}

/// Register a cluster
///
/// The server is inspected and prepared: version, settings and rights must
/// suffice, and what is missing is said. Registering the same server under the
/// same name again changes nothing.
#[utoipa::path(
    post, path = "/v1/clusters", tag = "clusters", security(("operator" = [])),
    params(("Idempotency-Key" = Option<String>, Header, description = "1 to 255 visible characters")),
    request_body = AddCluster,
    responses(
        (status = 201, body = Cluster),
        (status = 409, body = insula_api::ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn add_cluster(
    State(control): State<Arc<Control>>,
    operator: Operator,
    Body(request): Body<AddCluster>,
) -> Result<(StatusCode, Json<Cluster>), ApiError> {
    let record = registration::add(&control, operator.author(&control), &request).await?;
    Ok((StatusCode::CREATED, Json(shown(record, 0))))
}
