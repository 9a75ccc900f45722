//! What the tests of streams of changes share: two ends with a stream between.

#![allow(dead_code, unused_imports)] // each test file uses its part
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)] // helpers of tests fail as tests do

use std::sync::Arc;
use std::time::Duration;

use insula_app_schema::PlainMigration;
use insula_domain::{Entropy, Isolation, OsEntropy, SystemClock, TenantId};
use insula_tenant_cluster::moving::{
    CHUNKS_ABOVE_KB, Exported, Lsn, MovedTable, Place, Stream, StreamFault, StreamName, StreamSpec, Way,
    create_origin, create_slot, publish, remove_stream, tables,
};
use tokio_postgres::Client;
use uuid::Uuid;

pub mod beside;
pub mod between;
pub mod chunks;
#[path = "../moving_support/mod.rs"]
pub mod moving_support;
pub mod servers;

pub use moving_support::End;
pub use moving_support::schema_support::{new_tenant, one, versions};

/// Longer than any wait of a test that passes.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub fn new_id() -> Uuid {
    let mut bytes = [0; 16];
    OsEntropy.fill(&mut bytes);
    Uuid::from_bytes(bytes)
}

/// Two ends, and a stream from one to the other.
pub struct Pair {
    pub source: End,
    pub target: End,
    pub name: StreamName,
    pub tables: Vec<MovedTable>,
    writer: Client,
}

impl Pair {
    /// Two ends with the same tables, and all that a stream needs between them.
    pub async fn new(from: Isolation, to: Isolation, plain: &[PlainMigration]) -> Self {
        let tenant = new_tenant();
        let source = End::new(from, tenant, plain).await;
        let target = End::new(to, tenant, plain).await;
        let name = StreamName::new(Way::Forward, new_id());
        let writer = source.place.connect().await.unwrap();
        let tables = tables(&writer, &source.place).await.unwrap();
        let writer = source.database.connect().await;
        let pair = Self { source, target, name, tables, writer };
        drop(pair.prepare().await);
        pair
    }

    /// Publication, origin and slot, anew.
    pub async fn prepare(&self) -> Exported {
        publish(&self.source.place, self.name, &self.tables).await.unwrap();
        create_origin(&self.target.place, self.name).await.unwrap();
        create_slot(&self.source.place, self.name, PATIENCE).await.unwrap()
    }

    /// Runs statements at the source whose rows are the tenant's.
    pub async fn write(&self, sql: &str) {
        write(&self.source, sql).await;
    }

    pub fn tenant(&self) -> TenantId {
        self.source.place.tenant
    }

    pub fn spec(&self) -> StreamSpec {
        StreamSpec {
            source: self.source.place.clone(),
            target: self.target.place.clone(),
            name: self.name,
            tables: self.tables.clone(),
            skip_origins: Vec::new(),
            chunks_above_kb: CHUNKS_ABOVE_KB,
            patience: PATIENCE,
            clock: Arc::new(SystemClock),
        }
    }

    pub async fn stream(&self) -> Stream {
        Stream::start(self.spec()).await.unwrap()
    }

    /// Waits until everything at the source is at the target.
    pub async fn caught_up(&self, stream: &Stream) -> Result<(), StreamFault> {
        marked(&self.writer, stream).await
    }

    /// Fails where the ends are not the same.
    pub async fn assert_same(&self) {
        let (source, target) = self.both().await;
        assert_eq!(source, target);
    }

    pub async fn both(&self) -> (Vec<String>, Vec<String>) {
        (self.contents(&self.source.place).await, self.contents(&self.target.place).await)
    }

    /// Every table with its number of rows and a digest of them.
    pub async fn contents(&self, place: &Place) -> Vec<String> {
        let client = place.connect().await.unwrap();
        contents(&client, place, &self.tables).await
    }

    /// Takes away what a stream has on the servers.
    pub async fn clean(&self) {
        remove_stream(&self.source.place, &self.target.place, self.name).await.unwrap();
    }

    /// What the stream from the target back to the source is called.
    pub fn back(&self) -> StreamName {
        StreamName::new(Way::Back, self.name.move_id)
    }

    /// Publication, origin and slot of the stream back.
    pub async fn prepare_back(&self) {
        publish(&self.target.place, self.back(), &self.tables).await.unwrap();
        create_origin(&self.source.place, self.back()).await.unwrap();
        drop(create_slot(&self.target.place, self.back(), PATIENCE).await.unwrap());
    }

    /// The stream back, that leaves something out; for the rest it is as the one forth.
    pub fn spec_back(&self, skip_origins: Vec<StreamName>, forth: StreamSpec) -> StreamSpec {
        let (source, target) = (forth.target, forth.source);
        StreamSpec { source, target, name: self.back(), skip_origins, ..forth }
    }

    /// Takes away what the stream back has on the servers.
    pub async fn clean_back(&self) {
        remove_stream(&self.target.place, &self.source.place, self.back()).await.unwrap();
    }
}

/// Runs statements at an end whose rows are the tenant's.
pub async fn write(end: &End, sql: &str) {
    if end.place.is_pool_form() { end.fill(sql).await } else { end.run(sql).await }
}

/// Writes a marker, and waits until it is at the target.
pub async fn marked(writer: &Client, stream: &Stream) -> Result<(), StreamFault> {
    let id = new_id().to_string();
    let marker = stream.marker(&id);
    writer.execute("select pg_logical_emit_message(true, 'insula', $1)", &[&id]).await.unwrap();
    tokio::time::timeout(PATIENCE, marker.reached()).await.expect("the marker comes")
}

pub async fn contents(client: &Client, place: &Place, tables: &[MovedTable]) -> Vec<String> {
    let mut all = Vec::new();
    for table in tables {
        let columns: Vec<String> = table.columns.iter().map(|column| quoted(&column.name)).collect();
        let filter = if place.is_pool_form() {
            format!("where tenant_id = '{}'", place.tenant.as_uuid())
        } else {
            String::new()
        };
        let query = format!(
            "select count(*) || ' ' || coalesce(sum(hashtextextended(r, 0)), 0)
             from (select row({})::text as r from {} {filter}) x",
            columns.join(", "),
            table.qualified(&place.placement.schema)
        );
        all.push(format!("{}: {}", table.name, one(client, &query).await));
    }
    all
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Where the log of a server ends.
pub async fn log_end(client: &Client) -> Lsn {
    client.query_one("select pg_current_wal_insert_lsn()", &[]).await.unwrap().get(0)
}
