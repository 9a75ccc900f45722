//! What the tests of large transactions share: a stream that has chunks as soon as
//! it can, and transactions at the source that run.

use std::time::Instant;

use insula_tenant_cluster::Connection;
use insula_tenant_cluster::moving::{Stream, StreamSpec};

use super::{PATIENCE, Pair, one};

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
    let client = pair.source.place.connect().await.unwrap();
    client.batch_execute(&format!("begin; {sql}")).await.unwrap();
    client
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
