//! What the tests of the store share: its tables in a database of the test's
//! own, and writes in few words.

#![allow(dead_code)] // each test file uses its part

use std::sync::Arc;

use insula_config_model::{ConfigKey, ConfigValue, Room, Scope, Transaction, Version, Write, WriteOp};
use insula_config_store::{Ambient, BOUNDS, ConfigStore, ROLLOUTS_AND_CLIENTS, TABLES, WORDS};
use insula_credentials::MasterKeys;
use insula_domain::{OsEntropy, TenantId};
use insula_sql_store::{Connector, Store};
use insula_testkit::{ManualClock, TestDatabase};

pub struct Here {
    pub database: TestDatabase,
    pub store: ConfigStore,
    pub ambient: Ambient,
    pub clock: ManualClock,
}

pub fn tenant(number: u16) -> TenantId {
    format!("0190b8a0-0000-7000-8000-00000000{number:04x}").parse().unwrap()
}

pub fn scope(number: u16) -> Scope {
    Scope::Tenant(tenant(number))
}

pub fn key(text: &str) -> ConfigKey {
    text.parse().unwrap()
}

/// Tables in a database of the test's own, with tenants 1 to 4 at home.
pub async fn here(label: &str) -> Here {
    let keys = Arc::new(MasterKeys::generate(&OsEntropy));
    at(label, Store::Region, keys).await
}

pub async fn at(label: &str, store: Store, keys: Arc<MasterKeys>) -> Here {
    let database = TestDatabase::create(label).await;
    let client = database.connect().await;
    for sql in [TABLES, ROLLOUTS_AND_CLIENTS, BOUNDS, WORDS] {
        client.batch_execute(sql).await.unwrap();
    }
    let clock = ManualClock::default();
    if store == Store::Region {
        for number in 1..=4 {
            let now = insula_domain::Clock::now(&clock);
            insula_config_store::open_home(&client, tenant(number), now).await.unwrap();
        }
    }
    let ambient = Ambient { keys, clock: Arc::new(clock.clone()), entropy: Arc::new(OsEntropy) };
    let connector = Connector::new(&database.url(), None).unwrap();
    let store = ConfigStore::new(store, connector, ambient.clone());
    Here { database, store, ambient, clock }
}

pub fn json(text: &str) -> WriteOp {
    WriteOp::Put(ConfigValue::Json(text.to_owned().into()))
}

pub fn write(scope: Scope, name: &str, op: WriteOp, if_version: Option<Version>) -> Write {
    let note = String::new();
    Write {
        scope,
        key: key(name),
        op,
        if_version,
        note,
        history: 5,
        is_secret: false,
        room: Room::Usual,
        made: None,
    }
}

pub fn transaction(writes: Vec<Write>, token: Option<&str>) -> Transaction {
    Transaction {
        writes,
        token: token.map(str::to_owned),
        author: "test".to_owned(),
        tags: None,
        schemas: Vec::new(),
    }
}

pub fn one(scope: Scope, name: &str, op: WriteOp) -> Transaction {
    transaction(vec![write(scope, name, op, None)], None)
}
