//! The admin API: one file an endpoint or a resource, thin over the rest of
//! the crate. This file has the order in which a request is handled.

mod audit;
mod auth;
mod clusters;
mod doctor;
mod error;
mod extract;
mod keys;
mod logins;
mod move_events;
mod moves;
mod offers;
mod operations;
mod pages;
mod paging;
mod pg;
mod repeats;
mod schema;
mod tenants;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::StatusCode;
use axum::middleware::from_fn_with_state;
use tokio::sync::Semaphore;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::timeout::TimeoutLayer;
use utoipa::openapi::OpenApi;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::Control;

pub use pages::{Check, Health};

/// The bounds of a request.
#[derive(Debug, Clone, Copy)]
pub struct HttpLimits {
    /// Bytes of a body.
    pub body_bytes: usize,
    /// The time for one request.
    pub request_timeout: Duration,
    /// Requests under way at once; more are refused.
    pub in_flight: usize,
}

/// What is served beside: routes whose problems are extensions of their
/// answers, as here, and their description.
#[derive(Default)]
pub struct Beside {
    /// The routes.
    pub routes: Router,
    /// What they are.
    pub openapi: OpenApi,
}

/// The whole of HTTP that the control plane serves.
pub fn router(control: &Arc<Control>, health: Health, limits: HttpLimits, beside: Beside) -> Router {
    let (admin, mut openapi) = admin_api().split_for_parts();
    openapi.merge(beside.openapi);
    let admin = admin
        .route_layer(from_fn_with_state(control.clone(), repeats::answer_again))
        .layer(DefaultBodyLimit::max(limits.body_bytes))
        .with_state(control.clone())
        .merge(pages::router(openapi, health))
        .merge(beside.routes);
    finished(admin, control, limits)
}

/// What a process without the control plane serves: health and metrics, and
/// what its front is at.
pub fn front_router(control: &Arc<Control>, health: Health, limits: HttpLimits, beside: Beside) -> Router {
    let (front, mut openapi) = front_api().split_for_parts();
    openapi.merge(beside.openapi);
    let front = front.with_state(control.clone()).merge(pages::router(openapi, health)).merge(beside.routes);
    finished(front, control, limits)
}

fn finished(router: Router, control: &Arc<Control>, limits: HttpLimits) -> Router {
    router
        .fallback(error::not_found)
        .method_not_allowed_fallback(error::method_not_allowed)
        .layer(from_fn_with_state(Arc::new(Semaphore::new(limits.in_flight)), error::admit))
        .layer(TimeoutLayer::with_status_code(StatusCode::REQUEST_TIMEOUT, limits.request_timeout))
        .layer(CatchPanicLayer::custom(error::panicked))
        .layer(from_fn_with_state(control.clone(), error::finish))
}

/// The description of the API (OpenAPI 3.1).
#[must_use]
pub fn openapi() -> OpenApi {
    admin_api().into_openapi()
}

fn front_api() -> OpenApiRouter<Arc<Control>> {
    OpenApiRouter::new()
        .routes(routes!(pg::list_clients))
        .routes(routes!(pg::list_backends))
        .routes(routes!(pg::list_tenants))
}

fn admin_api() -> OpenApiRouter<Arc<Control>> {
    let mut router = OpenApiRouter::new()
        .routes(routes!(clusters::list_regions))
        .routes(routes!(clusters::list_clusters, clusters::add_cluster))
        .routes(routes!(clusters::show_cluster))
        .routes(routes!(offers::list_tiers))
        .routes(routes!(offers::put_tier))
        .routes(routes!(offers::list_plans))
        .routes(routes!(offers::put_plan))
        .routes(routes!(tenants::create::create_tenant, tenants::list::list_tenants))
        .routes(routes!(
            tenants::show::show_tenant,
            tenants::update::update_tenant,
            tenants::delete::delete_tenant
        ))
        .routes(routes!(tenants::suspend::suspend_tenant))
        .routes(routes!(tenants::resume::resume_tenant))
        .routes(routes!(logins::list_logins, logins::create_login))
        .routes(routes!(logins::revoke_login))
        .routes(routes!(logins::login_url))
        .routes(routes!(logins::mint_token))
        .routes(routes!(keys::list_keys, keys::create_key))
        .routes(routes!(keys::revoke_key))
        .routes(routes!(moves::move_tenant, moves::list_tenant_moves))
        .routes(routes!(moves::plan_move))
        .routes(routes!(moves::list_moves))
        .routes(routes!(moves::show_move))
        .routes(routes!(move_events::follow_move))
        .routes(routes!(moves::complete_move))
        .routes(routes!(moves::roll_move_back))
        .routes(routes!(moves::cancel_move))
        .routes(routes!(operations::list_operations))
        .routes(routes!(operations::show_operation))
        .routes(routes!(operations::resume_operation))
        .routes(routes!(schema::list_versions))
        .routes(routes!(schema::apply_schema, schema::list_rollouts))
        .routes(routes!(schema::show_rollout))
        .routes(routes!(schema::list_rollout_placements))
        .routes(routes!(schema::pause_rollout))
        .routes(routes!(schema::resume_rollout))
        .routes(routes!(schema::retry_rollout))
        .routes(routes!(schema::schema_status))
        .routes(routes!(schema::schema_drift))
        .routes(routes!(schema::schema_failures))
        .routes(routes!(schema::schema_audit))
        .routes(routes!(schema::check_schema))
        .routes(routes!(schema::open_blueprint))
        .routes(routes!(schema::rebuild_blueprint))
        .routes(routes!(schema::capture_schema))
        .routes(routes!(audit::list_audit))
        .routes(routes!(audit::list_tenant_audit))
        .routes(routes!(doctor::examine))
        .merge(front_api());
    let description = router.get_openapi_mut();
    description.info = utoipa::openapi::Info::new("Insula", env!("CARGO_PKG_VERSION"));
    description.info.description = Some(
        "The admin API of Insula. Every call needs an operator's token. Errors are RFC 9457 problem details \
         with a stable code; long operations answer 202 with the operation to follow."
            .to_owned(),
    );
    description.info.license = Some(utoipa::openapi::License::new("Apache-2.0"));
    let components = description.components.get_or_insert_default();
    components.add_security_scheme("operator", SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer)));
    router
}
