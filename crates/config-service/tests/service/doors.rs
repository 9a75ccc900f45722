//! The HTTP interface as a router: what its answers say to caches, and that one
//! tenant's calls leave room for others.

use axum::Router;
use axum::body::{Body, Bytes};
use futures_util::{StreamExt, stream};
use http::header::{AUTHORIZATION, CACHE_CONTROL};
use http::{Method, Request, StatusCode};
use insula_config_service::{Bounds, http as doors};
use tokio::sync::oneshot;
use tower::ServiceExt;

use crate::support::{PATIENCE, World, put};

const KEY: &str = "tenant_config_theme";

fn request(method: Method, path: &str, credential: &str, body: Body) -> Request<Body> {
    let request = Request::builder().method(method).uri(path);
    let bearer = format!("Bearer {credential}");
    request.header(AUTHORIZATION, bearer).header("content-type", "application/json").body(body).unwrap()
}

async fn get(router: &Router, path: &str, credential: &str) -> http::Response<Body> {
    let request = request(Method::GET, path, credential, Body::empty());
    router.clone().oneshot(request).await.unwrap()
}

#[tokio::test]
async fn no_answer_is_kept_on_its_way() {
    let world = World::new().await;
    world.admin(1).await.put(put(KEY, "1")).await.unwrap();
    let (router, credential) = (doors::router(&world.service), world.credential(1, "tenant_admin").await);
    for path in ["", "/tenant_config_theme", "/tenant_config_theme/history", "/tenant_config_theme/explain"] {
        let answer = get(&router, &format!("/v1/tenants/acme/config{path}"), &credential).await;
        assert_eq!(answer.status(), StatusCode::OK, "{path}");
        assert_eq!(answer.headers()[CACHE_CONTROL], "no-store", "{path}");
    }
}

/// A call with a long message that is read on to where this is told, and no further.
fn long(key: &str, path: &str) -> (Request<Body>, oneshot::Receiver<()>) {
    let (tell, told) = oneshot::channel();
    let begin = stream::once(async { Ok::<_, std::io::Error>(Bytes::from(vec![b' '; (1 << 20) + 1])) });
    let rest = stream::once(async move {
        tell.send(()).unwrap();
        std::future::pending().await
    });
    (request(Method::PUT, path, key, Body::from_stream(begin.chain(rest).boxed())), told)
}

#[tokio::test]
async fn one_tenants_long_messages_leave_memory_for_others() {
    let world = World::new().await;
    let router = doors::router(&world.service);
    let (acme, globex) =
        (world.credential(1, "tenant_admin").await, world.credential(2, "tenant_admin").await);
    let begin = |key: &str, slug: &str| {
        let (call, told) = long(key, &format!("/v1/tenants/{slug}/config/tenant_config_theme"));
        (tokio::spawn(router.clone().oneshot(call)), told)
    };
    let mut taken = Vec::new();
    for _ in 0..4 {
        let (call, told) = begin(&acme, "acme");
        told.await.unwrap();
        taken.push(call);
    }
    let (fifth, mut told) = begin(&acme, "acme");
    let (other, others) = begin(&globex, "globex");
    others.await.expect("canary: another tenant's is read on");
    assert!(told.try_recv().is_err(), "it waits for a place");
    taken.remove(0).abort();
    tokio::time::timeout(PATIENCE, &mut told).await.expect("the place is given back").unwrap();
    taken.into_iter().chain([fifth, other]).for_each(|call| call.abort());
}

#[tokio::test]
async fn one_tenants_calls_leave_room_for_others() {
    // A quarter of these is for tenants here, and a quarter of that for one.
    let world = World::with(Bounds { in_flight: 16, ..Bounds::default() }).await;
    world.admin(1).await.put(put(KEY, "1")).await.unwrap();
    let router = doors::router(&world.service);
    let (acme, globex) =
        (world.credential(1, "tenant_admin").await, world.credential(2, "tenant_admin").await);
    let operator = world.operator_token().await;
    let path = "/v1/tenants/acme/config/tenant_config_theme";
    // A body that begins to be read and does not end.
    let (begins, begun) = oneshot::channel();
    let (_goes_on, rest) = oneshot::channel::<()>();
    let body = stream::once(async move {
        begins.send(()).unwrap();
        let _ = rest.await;
        Ok::<_, std::io::Error>(Bytes::new())
    });
    let slow = request(Method::PUT, path, &acme, Body::from_stream(body.boxed()));
    let slow = tokio::spawn(router.clone().oneshot(slow));
    begun.await.unwrap();
    assert_eq!(get(&router, path, &acme).await.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(get(&router, "/v1/tenants/globex/config", &globex).await.status(), StatusCode::OK);
    assert_eq!(get(&router, path, &operator).await.status(), StatusCode::OK);
    slow.abort();
    assert!(slow.await.unwrap_err().is_cancelled());
    assert_eq!(get(&router, path, &acme).await.status(), StatusCode::OK, "the place is given back");
}
