//! What the tests of large transactions share: a stream that has chunks as soon as
//! it can, and transactions at the source that run.

use std::time::Instant;

use insula_tenant_cluster::Connection;
use insula_tenant_cluster::moving::{Place, Stream, StreamName, StreamSpec};
use tokio_postgres::Client;

use super::{PATIENCE, Pair, log_end, one};

/// Rows with a key, and some with two.
pub const SMALL: &str = "create table items (id int primary key, what text not null default '');
    create table others (id int primary key, what text unique)";

/// Rows from one number to another, so many bytes that a tenth of a thousand of
/// them is more than the decoder keeps.
pub fn rows(from: u32, to: u32) -> String {
    format!("insert into items select n, repeat(md5(n::text), 20) from generate_series({from}, {to}) n; ")
}

/// What the decoder keeps of transactions that run is as little as it can be.
pub fn little(pair: &Pair) -> StreamSpec {
    StreamSpec { chunks_above_kb: 64, ..pair.spec() }
}

pub async fn chunks(pair: &Pair) -> Stream {
    Stream::start(little(pair)).await.unwrap()
}

/// A session at the source with a transaction that runs.
pub async fn begun(pair: &Pair, sql: &str) -> Connection {
    begun_at(&pair.source.place, sql).await
}

/// A session with a transaction that runs.
pub async fn begun_at(place: &Place, sql: &str) -> Connection {
    let client = place.connect().await.unwrap();
    client.batch_execute(&format!("begin; {sql}")).await.unwrap();
    client
}

/// Waits until the source has sent all that is in its log by now.
pub async fn until_sent(source: &Place, name: StreamName) {
    let client = source.connect().await.unwrap();
    let end = log_end(&client).await;
    flushed(&client).await;
    let sent =
        format!("select sent_lsn >= '{end}' from pg_stat_replication where application_name = '{name}'");
    let begun = Instant::now();
    while one(&client, &sent).await != "t" {
        assert!(begun.elapsed() < PATIENCE, "it is not sent");
    }
}

/// Has all be sent that is in the log of a server: what is not committed lies there
/// for some seconds, unless somebody commits something.
pub async fn flushed(client: &Client) {
    one(client, "select pg_logical_emit_message(true, 'nobody', '')::text").await;
}

/// How many rows somebody else sees at the target.
pub async fn seen_there(pair: &Pair) -> String {
    one(&pair.target.place.connect().await.unwrap(), "select count(*) from items").await
}

/// Sessions of the stream at the target that have a transaction open, and had it a
/// moment ago.
pub async fn open_there(pair: &Pair) -> String {
    let open = format!(
        "select count(*) from pg_stat_activity where application_name = '{}' and backend_type = 'client backend'
           and backend_xid is not null and xact_start < clock_timestamp() - interval '50 milliseconds'",
        pair.name
    );
    one(&pair.target.admin, &open).await
}

/// Waits until transactions that run, so many, are at the target.
pub async fn until_open(pair: &Pair, count: u32) {
    flushed(&pair.source.admin).await;
    let begun = Instant::now();
    while open_there(pair).await != count.to_string() {
        assert!(begun.elapsed() < PATIENCE, "{} are open", open_there(pair).await);
    }
}

/// How many were applied while they ran, and how often that was given up.
pub fn counted(stream: &Stream) -> (u64, u64) {
    let progress = stream.progress().borrow().clone();
    (progress.streamed, progress.fallen_back)
}
