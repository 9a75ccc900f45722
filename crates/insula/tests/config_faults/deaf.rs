//! Watchers that do not read what they are sent.

use insula_config::{Client, Origin};
use insula_config_proto::v1::transact_request::{Op, op};
use insula_config_proto::v1::watch_event::Event;
use insula_config_proto::v1::{PutRequest, TransactRequest, WatchEvent, WatchRequest, put_request};
use tokio::time::timeout;
use tonic::Streaming;
use tonic::transport::Endpoint;

use crate::common::World;
use crate::common::config::{Key, Stub, put, signed};
use crate::{FILLING, PATIENCE, house};

/// Watchers that do not read, and their connections.
const DEAF: usize = 500;
const DEAF_CONNECTIONS: usize = 25;
/// What may be held for them: what one tenant may have on its way, the values of
/// before that, and themselves.
const DEAF_KIB_MAX: usize = 96 << 10;

/// Watchers that ask, over connections with small windows, and do not read.
async fn asking(world: &World, key: &Key) -> Vec<Streaming<WatchEvent>> {
    let mut asking = Vec::new();
    for _ in 0..DEAF_CONNECTIONS {
        let small = Endpoint::from_shared(world.grpc_url()).unwrap().initial_stream_window_size(65_535);
        let stub = Stub::new(small.connect_lazy());
        for _ in 0..DEAF / DEAF_CONNECTIONS {
            let all = WatchRequest::default();
            asking.push(stub.clone().watch(signed(&key.secret, all)).await.unwrap().into_inner());
        }
    }
    asking
}

/// What a tenant's watchers do not read takes no more memory than that tenant may
/// have; others are served meanwhile, and the tenant's own when those who do not
/// read have been let go.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_takes_nothing_is_let_go_where_others_wait() {
    let (world, keys) = house().await;
    let stub = world.stub();
    let filling = format!("\"{}\"", "x".repeat(FILLING));
    put(&stub, &keys[1].secret, "tenant_config_large", filling.clone(), "").await.unwrap();
    let many = || {
        let ops = (0..40).map(|number| {
            let value = Some(put_request::Value::Json(filling.clone().into()));
            let put =
                PutRequest { key: format!("tenant_config_many/{number}"), value, ..PutRequest::default() };
            Op { op: Some(op::Op::Put(put)) }
        });
        let many = TransactRequest { ops: ops.collect(), ..TransactRequest::default() };
        signed(&keys[0].secret, many)
    };
    stub.clone().transact(many()).await.unwrap();
    // What such a change takes by itself is in it.
    let before = world.memory_kib();
    let asking = asking(&world, &keys[0]).await;
    stub.clone().transact(many()).await.unwrap();
    let client = |key: &Key| Client::builder(world.grpc_url(), &key.secret).prefix("tenant_config_").start();
    let other = client(&keys[1]).await.unwrap();
    assert_eq!(other.ready(PATIENCE).await, Ok(Origin::Server), "another tenant is served");
    let held = world.memory_kib().saturating_sub(before);
    // Whoever kept one part for each of them would hold more.
    const { assert!(FILLING * DEAF > (DEAF_KIB_MAX << 10) * 6 / 5) };
    assert!(held < DEAF_KIB_MAX as u64, "{held} KiB for watchers that do not read");
    let own = client(&keys[0]).await.unwrap();
    assert_eq!(own.ready(PATIENCE).await, Ok(Origin::Server), "and so is who reads");
    assert_eq!(own.view().under("tenant_config_many/").len(), 40);
    // The others find out when they read: they were let go, or have what there is.
    let mut let_go = 0;
    for mut one in asking {
        let read = async {
            loop {
                match one.message().await {
                    Ok(Some(told)) => {
                        if matches!(&told.event, Some(Event::Snapshot(snapshot)) if !snapshot.more) {
                            return false;
                        }
                    }
                    Ok(None) | Err(_) => return true,
                }
            }
        };
        let_go += usize::from(timeout(PATIENCE, read).await.expect("none is left behind"));
    }
    assert!(let_go > 0, "canary: room was found without that");
}
