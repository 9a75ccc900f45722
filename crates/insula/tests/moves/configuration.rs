//! What a tenant has configured goes along to another region, and back, while
//! it is written: nothing that was acknowledged is lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use insula_config_model::{ConfigKey, ConfigValue, Scope, Transaction, Write, WriteOp};
use insula_config_store::{Ambient, ConfigStore, HomeState, Writer};
use insula_credentials::MasterKeys;
use insula_domain::{OsEntropy, SystemClock, TenantId};
use insula_problem::Code;
use insula_sql_store::{Connector, Store};

use crate::common::World;
use crate::place::{banker, is_settled, moved, ordered, tier_of, world};

/// The configuration of both regions, as a service reaches it.
fn stores(world: &World) -> [ConfigStore; 2] {
    let keys = Arc::new(MasterKeys::generate(&OsEntropy));
    [&world.us, &world.eu].map(|server| {
        let ambient =
            Ambient { keys: Arc::clone(&keys), clock: Arc::new(SystemClock), entropy: Arc::new(OsEntropy) };
        let connector = Connector::new(&server.url("insula_region"), None).unwrap();
        ConfigStore::new(Store::Region, connector, ambient)
    })
}

fn key() -> ConfigKey {
    "tenant_config_count".parse().unwrap()
}

/// Counts, each on condition of the one before, wherever it is taken.
async fn count(writers: [Writer; 2], scope: Scope, stop: Arc<AtomicBool>) -> (i64, Vec<i64>) {
    let (mut at, mut done, mut revisions) = (0, 0, Vec::new());
    while !stop.load(Ordering::SeqCst) {
        let op = WriteOp::Put(ConfigValue::Json((done + 1).to_string().into()));
        let (scope, note) = (scope.clone(), String::new());
        let write = Write { scope, key: key(), op, if_version: Some(done), note, history: 3, is_secret: false };
        let token = Some(format!("count {done}"));
        let transaction = Transaction { writes: vec![write], token, author: "test".to_owned() };
        match writers[at].write(transaction).await {
            Ok(written) => {
                revisions.push(written[0].revision);
                done = written[0].version;
            }
            Err(problem) => {
                assert_eq!(problem.code(), Code::ConfigMoving, "{}", problem.chain());
                at = 1 - at;
                tokio::task::yield_now().await;
            }
        }
    }
    (done, revisions)
}

#[tokio::test(flavor = "multi_thread")]
async fn it_goes_along_to_another_region_and_back() {
    let world = world().await;
    banker(&world, "acme", tier_of("schema")).await;
    assert!(world.run(&["tenant", "set", "acme", "--residency", "global"]).ok);
    let tenant: TenantId = world.tenant("acme")["id"].as_str().unwrap().parse().unwrap();
    let [us, eu] = stores(&world);
    let stop = Arc::new(AtomicBool::new(false));
    let counting = tokio::spawn(count([us.writer(), eu.writer()], Scope::Tenant(tenant), Arc::clone(&stop)));

    let found = moved(&world, "acme", &["--region", "eu-west-1"]);
    assert_eq!(eu.home(tenant).await.unwrap().unwrap().state, HomeState::Open);
    assert_eq!(us.home(tenant).await.unwrap().unwrap().state, HomeState::Closed);
    ordered(&world, "rollback", &found, "rolled_back");
    assert_eq!(us.home(tenant).await.unwrap().unwrap().state, HomeState::Open);
    assert_eq!(eu.home(tenant).await.unwrap(), None, "what the move has made is gone");
    is_settled(&world, "acme", "schema", "us-east-1").await;
    let found = moved(&world, "acme", &["--region", "eu-west-1"]);
    ordered(&world, "complete", &found, "completed");
    is_settled(&world, "acme", "schema", "eu-west-1").await;

    stop.store(true, Ordering::SeqCst);
    let (done, revisions) = counting.await.unwrap();
    assert!(done > 0 && revisions.windows(2).all(|two| two[0] < two[1]));
    let newest = eu.newest(&[Scope::Tenant(tenant)], &key()).await.unwrap();
    let stored = newest.layers[0].stored.clone().unwrap();
    assert_eq!(stored.value, Some(ConfigValue::Json(done.to_string().into())));
    assert_eq!(us.home(tenant).await.unwrap(), None);
    assert_eq!(us.strays().await.unwrap(), Vec::new());

    assert!(world.run(&["tenant", "delete", "acme"]).ok);
    world.doctor_is_content();
    assert_eq!(eu.home(tenant).await.unwrap(), None, "with the tenant goes what it has configured");
    assert_eq!(eu.strays().await.unwrap(), Vec::new());
}
