//! Doors that are wrong on purpose: whoever comes through them with any key is
//! believed to be whom he asks for. They stand before the true service, and show
//! that the checks here can fail.

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use http::header::AUTHORIZATION;
use http::{HeaderValue, Version};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

use crate::ways::Doors;

#[derive(Clone)]
struct Door {
    behind: u16,
    version: Version,
    client: Client<HttpConnector, Body>,
    /// Who may name every tenant.
    operator: HeaderValue,
    /// Whose flags are asked for.
    other: HeaderValue,
}

/// Doors before these, which take the operator's token, and of flags the other
/// tenant's key, for whatever key is shown.
pub async fn before(doors: &Doors, operator: &str, other: &str) -> Doors {
    let bearer = |secret: &str| HeaderValue::from_str(&format!("Bearer {secret}")).unwrap();
    let open = async |behind, version| {
        let is_http2 = version == Version::HTTP_2;
        let client = Client::builder(TokioExecutor::new()).http2_only(is_http2).build_http();
        let door = Door { behind, version, client, operator: bearer(operator), other: bearer(other) };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let router = Router::new().fallback(forward).with_state(door);
        tokio::spawn(async move { axum::serve(listener, router).await });
        port
    };
    Doors { http: open(doors.http, Version::HTTP_11).await, grpc: open(doors.grpc, Version::HTTP_2).await }
}

async fn forward(State(door): State<Door>, mut request: Request) -> Response {
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str()).to_owned();
    let believed = if path.starts_with("/flagd.") { &door.other } else { &door.operator };
    request.headers_mut().insert(AUTHORIZATION, believed.clone());
    request.headers_mut().remove("flagd-selector");
    *request.uri_mut() = format!("http://127.0.0.1:{}{path}", door.behind).parse().unwrap();
    *request.version_mut() = door.version;
    door.client.request(request).await.unwrap().map(Body::new).into_response()
}
