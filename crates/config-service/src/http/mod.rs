//! The HTTP interface: the same questions and writes as over gRPC, for
//! operators at `/v1/config`, and for a tenant's values at
//! `/v1/tenants/{tenant}/config`. A tenant's own API key opens the latter for
//! its own tenant. A key of the configuration is one part of the path: its
//! slashes are `%2F`.

mod call;
mod documents;
mod events;
#[cfg(test)]
mod parity_tests;
mod reads;
mod rollouts;
mod tags;
mod writes;

use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::HeaderValue;
use axum::http::header::CACHE_CONTROL;
use axum::middleware::{Next, from_fn_with_state, map_response};
use axum::response::{IntoResponse, Response};
use utoipa::openapi::path::{Operation, Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::openapi::{Object, OpenApi, PathItem, RefOr, Required, Type};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::grpc::Door;
use crate::service::Service;

pub use call::ApiError;

/// Where the provider's values are.
const PROVIDER: &str = "/v1";
/// Where a tenant's values are.
const TENANT: &str = "/v1/tenants/{tenant}";

fn api() -> OpenApiRouter<Arc<Service>> {
    OpenApiRouter::new()
        .routes(routes!(reads::list_config, writes::transact_config))
        .routes(routes!(reads::show_config, writes::put_config, writes::remove_config))
        .routes(routes!(reads::config_history))
        .routes(routes!(reads::explain_config))
        .routes(routes!(reads::fetch_config))
        .routes(routes!(reads::list_config_reads))
        .routes(routes!(writes::roll_config_back))
        .routes(routes!(writes::label_config, writes::unlabel_config))
        .routes(routes!(rollouts::show_config_rollout, rollouts::start_config_rollout))
        .routes(routes!(rollouts::steer_config_rollout))
        .routes(routes!(rollouts::list_config_clients))
        .routes(routes!(rollouts::acknowledge_config))
        .routes(routes!(rollouts::list_config_rollouts))
}

/// What there is of the provider alone.
fn provider_api() -> OpenApiRouter<Arc<Service>> {
    OpenApiRouter::new()
        .routes(routes!(tags::list_config_tags))
        .routes(routes!(tags::move_config_tag))
        .routes(routes!(tags::take_config_events))
}

/// What is served, to be merged into a router that turns problems into answers.
pub fn router(service: &Arc<Service>) -> Router {
    let (routes, _) = api().split_for_parts();
    let door = Arc::new(Door::beside_others(service.clone()));
    let (of_provider, _) = provider_api().split_for_parts();
    Router::new()
        .nest(PROVIDER, routes.clone().merge(of_provider))
        .nest(TENANT, routes)
        .layer(DefaultBodyLimit::max(service.bounds().message_bytes))
        .layer(from_fn_with_state(door, admit))
        .layer(map_response(kept_nowhere))
        .with_state(service.clone())
}

/// Lets a call in, or answers it here.
async fn admit(State(door): State<Arc<Door>>, request: Request, next: Next) -> Response {
    door.answer(request, next).await.unwrap_or_else(|problem| ApiError(problem).into_response())
}

/// Values, secrets among them, are for those who ask, and for no cache.
async fn kept_nowhere(mut response: Response) -> Response {
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// The description of what is served (OpenAPI 3.1).
#[must_use]
pub fn openapi() -> OpenApi {
    let mut description = api().into_openapi();
    let mut of_provider = provider_api().into_openapi();
    let components = description.components.get_or_insert_default();
    components.add_security_scheme("tenant", SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer)));
    let paths = std::mem::take(&mut description.paths.paths);
    for (path, item) in paths {
        let mut of_tenant = item.clone();
        operations(&mut of_tenant).for_each(name_tenant);
        description.paths.paths.insert(format!("{PROVIDER}{path}"), item);
        description.paths.paths.insert(format!("{TENANT}{path}"), of_tenant);
    }
    let paths = std::mem::take(&mut of_provider.paths.paths).into_iter();
    description.paths.paths.extend(paths.map(|(path, item)| (format!("{PROVIDER}{path}"), item)));
    if let (Some(components), Some(more)) = (&mut description.components, of_provider.components) {
        components.schemas.extend(more.schemas);
    }
    description
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    [&mut item.get, &mut item.put, &mut item.post, &mut item.delete].into_iter().flatten()
}

/// A tenant is named in the path, and not as the scope.
fn name_tenant(operation: &mut Operation) {
    operation.operation_id = operation.operation_id.take().map(|id| format!("tenant_{id}"));
    let parameters = operation.parameters.get_or_insert_default();
    parameters.retain(|parameter| !matches!(parameter, RefOr::T(parameter) if parameter.name == "scope"));
    let tenant: Parameter = ParameterBuilder::new()
        .name("tenant")
        .parameter_in(ParameterIn::Path)
        .required(Required::True)
        .description(Some("Slug or id"))
        .schema(Some(Object::with_type(Type::String)))
        .build();
    parameters.insert(0, RefOr::T(tenant));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_places_are_described() {
        let description = openapi();
        let paths: Vec<&str> = description.paths.paths.keys().map(String::as_str).collect();
        for path in ["/v1/config/{key}", "/v1/tenants/{tenant}/config/{key}/labels/{label}"] {
            assert!(paths.contains(&path), "{path}: {paths:?}");
        }
        let mut ids = std::collections::BTreeSet::new();
        for item in description.paths.paths.values() {
            for operation in operations(&mut item.clone()) {
                assert!(
                    ids.insert(operation.operation_id.clone()),
                    "{:?} stands twice",
                    operation.operation_id
                );
            }
        }
    }
}
