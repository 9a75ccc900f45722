//! Comparing two ends of a move: every difference is found and counted, whatever
//! the statistics say, and a worker that goes on for another one reads again only
//! what was changed since.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)] // helpers of tests fail as tests do

mod moving_support;

use std::time::Duration;

use insula_domain::Isolation;
use insula_tenant_cluster::moving::{
    CompareOptions, Compared, Comparison, Differs, MovedTable, Verified, tables, verify,
};
use moving_support::End;
use moving_support::schema_support::{new_tenant, one, versions};
use serde_json::{Value, json};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// As long as transactions of other tests may last.
const PATIENCE: Duration = Duration::from_secs(120);

/// Two ends of a tenant with the same rows.
struct Ends {
    source: End,
    target: End,
    tables: Vec<MovedTable>,
}

impl Ends {
    async fn new(plain: &str, rows: &str) -> Self {
        let (tenant, plain) = (new_tenant(), versions(&[plain]));
        let source = End::new(Isolation::Pool, tenant, &plain).await;
        let target = End::new(Isolation::Database, tenant, &plain).await;
        source.fill(rows).await;
        // Somebody else has rows in the shared tables, too.
        let mut source = source;
        source.fill_beside(rows).await;
        target.run(rows).await;
        let tables = tables(&source.place.connect().await.unwrap(), &source.place).await.unwrap();
        Self { source, target, tables }
    }

    /// Waits until every transaction has ended on the servers that began before now, those of other tests among
    /// them: what is not older than the oldest of them is read again, as it may have been changed since.
    async fn settle(&self) {
        for end in [&self.source, &self.target] {
            let number = async |sql: &str| one(&end.admin, sql).await.parse::<u64>().unwrap();
            let now = number("select pg_current_xact_id()::text").await;
            let ended = async {
                while number("select pg_snapshot_xmin(pg_current_snapshot())::text").await <= now {
                    tokio::task::yield_now().await;
                }
            };
            timeout(PATIENCE, ended).await.expect("what others have begun ends");
        }
    }

    async fn compared(&self, how: CompareOptions, comparison: &Comparison) -> Verified {
        self.settle().await;
        let (from, to) = ((&self.source.place, None), (&self.target.place, None));
        let stop = CancellationToken::new();
        verify(from, to, &self.tables, how, comparison, &stop).await.unwrap()
    }

    async fn verified(&self) -> Verified {
        self.compared(CompareOptions::default(), &Comparison::default()).await
    }

    /// What is recorded by a worker that dies when so many rows are equal.
    async fn left_behind(&self, rows: u64) -> Compared {
        let comparison = Comparison::default();
        let how = CompareOptions { parallel: 1, rows_per_range: 500, pause: None };
        let enough = async {
            while comparison.compared().rows() < rows {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            biased;
            () = enough => {}
            verified = self.compared(how, &comparison) => panic!("it is done: {verified:?}"),
        }
        comparison.compared()
    }

    /// Goes on from what another one has recorded.
    async fn going_on(&self, record: &Value) -> Verified {
        let how = CompareOptions { parallel: 2, rows_per_range: 500, pause: None };
        self.compared(how, &Comparison::going_on(serde_json::from_value(record.clone()).unwrap())).await
    }
}

#[tokio::test]
async fn every_difference_is_found_and_counted_whatever_the_statistics_say() {
    let mut ends = Ends::new(
        "create table t (a int, b text, c int not null default 0, primary key (b, a))",
        "insert into t select n, 'k' || n % 7 from generate_series(1, 50000) n",
    )
    .await;
    assert_eq!(ends.verified().await.rows_differing, 0, "canary");
    ends.target
        .run(
            "delete from t where a in (1, 25000, 50000); update t set c = 1 where a in (2, 30000);
             insert into t select n, 'k3' from generate_series(60001, 60040) n",
        )
        .await;
    let key = "'b=md5:' || md5(b) || ', a=' || a";
    let mut expected = Vec::new();
    for (end, rows, what) in [
        (&ends.source, "a in (1, 25000, 50000)", Differs::MissingAtTarget),
        (&ends.target, "a > 60000", Differs::OnlyAtTarget),
        (&ends.target, "c = 1", Differs::OtherValues),
    ] {
        let client = end.place.connect().await.unwrap();
        for row in client.query(&format!("select distinct {key} from t where {rows}"), &[]).await.unwrap() {
            expected.push((row.get::<_, String>(0), what));
        }
    }
    expected.sort();
    assert_eq!(expected.len(), 45);
    let counted = ends.tables[0].rows;
    for rows in [counted, 0] {
        ends.tables[0].rows = rows;
        let verified = ends.verified().await;
        let found: Vec<_> =
            verified.differences.iter().map(|found| (found.key.clone(), found.what)).collect();
        assert_eq!(found, expected, "where there seem to be {rows} rows");
        assert_eq!((verified.rows, verified.rows_differing), (50_000, 45));
    }
    // All of them are counted, and the first are listed; also where nearly all are behind
    // the last row of the other end.
    ends.target.run("truncate t; insert into t select n, 'z' from generate_series(1, 30000) n").await;
    let verified = ends.verified().await;
    assert_eq!((verified.rows_differing, verified.differences.len()), (80_000, 100));
    assert!(verified.differences.iter().all(|found| found.what == Differs::MissingAtTarget));
}

#[tokio::test]
async fn a_table_without_a_key_differs_as_a_whole() {
    let ends = Ends::new("create table t (a int)", "insert into t select generate_series(1, 9)").await;
    ends.target.run("update t set a = 0 where a = 1").await;
    let verified = ends.verified().await;
    assert_eq!((verified.rows_differing, verified.differences[0].key.as_str()), (1, ""));
}

const THREE: &str = "create table a_first (mail text primary key, v int not null default 0);
    create table b_large (id int primary key, v int not null default 0);
    create table c_last (id int primary key)";

const THREE_ROWS: &str =
    "insert into a_first select 'ada' || n || '@example.test' from generate_series(1, 100) n;
    insert into b_large select generate_series(1, 12000); insert into c_last select generate_series(1, 10)";

#[tokio::test]
async fn whoever_goes_on_compares_what_is_left() {
    let ends = Ends::new(THREE, THREE_ROWS).await;
    let whole = ends.verified().await;
    assert_eq!((whole.rows, whole.rows_before, whole.rows_differing), (12_110, 0, 0));
    let left = ends.left_behind(3_100).await;
    let record = serde_json::to_value(&left).unwrap();
    assert!(left.rows() >= 3_100 && !record.to_string().contains("example"), "{record}");
    let verified = ends.going_on(&record).await;
    assert_eq!(verified, Verified { rows_before: left.rows(), ..whole.clone() });

    // What comes behind is compared, and a difference there found.
    ends.target.run("update b_large set v = 1 where id = 12000").await;
    let verified = ends.going_on(&record).await;
    assert_eq!((verified.rows_before, verified.rows_differing), (left.rows(), 1));
    ends.target.run("update b_large set v = 0 where id = 12000").await;

    // All of it may be known, but for a table that was written to at both ends meanwhile.
    let comparison = Comparison::default();
    ends.compared(CompareOptions::default(), &comparison).await;
    let all = comparison.compared();
    let record = serde_json::to_value(&all).unwrap();
    assert_eq!(ends.going_on(&record).await, Verified { rows_before: 12_110, ..whole.clone() });
    // Rows that come at the end leave the others what they were.
    let comparison = Comparison::default();
    let how = CompareOptions { rows_per_range: 500, ..CompareOptions::default() };
    ends.compared(how, &comparison).await;
    let in_ranges = serde_json::to_value(comparison.compared()).unwrap();
    let (own, more) = (ends.source.place.tenant.as_uuid(), "insert into b_large (id");
    ends.source.run(&format!("{more}, tenant_id) values (20000, '{own}')")).await;
    ends.target.run(&format!("{more}) values (20000)")).await;
    let verified = ends.going_on(&in_ranges).await;
    assert_eq!((verified.rows, verified.rows_before, verified.rows_differing), (12_111, 12_110, 0));
    ends.source.run("update b_large set v = 2 where id = 7").await;
    ends.target.run("update b_large set v = 2 where id = 7").await;
    let verified = ends.going_on(&record).await;
    assert_eq!((verified.rows, verified.rows_before, verified.rows_differing), (12_111, 110, 0));
    assert_ne!(verified.checksum, whole.checksum);
}

#[tokio::test]
async fn what_was_changed_since_it_was_equal_is_compared_again() {
    for (end, change, what) in [
        ("target", "update b_large set v = 1 where id = 3", Differs::OtherValues),
        ("target", "delete from b_large where id = 3", Differs::MissingAtTarget),
        ("target", "insert into b_large values (0)", Differs::OnlyAtTarget),
        (
            "target",
            "delete from b_large where id = 3; insert into b_large values (3, 1)",
            Differs::OtherValues,
        ),
        ("source", "update b_large set v = 1 where id = 3", Differs::OtherValues),
        // The range then ends with another row.
        ("source", "delete from b_large where id = 3", Differs::OnlyAtTarget),
    ] {
        let ends = Ends::new(THREE, THREE_ROWS).await;
        let left = ends.left_behind(3_100).await;
        if end == "source" { &ends.source } else { &ends.target }.run(change).await;
        let mut record = serde_json::to_value(&left).unwrap();
        let verified = ends.going_on(&record).await;
        assert_eq!((verified.rows_before, verified.rows_differing), (100, 1), "{end}: {change}");
        assert_eq!(verified.differences[0].what, what, "{end}: {change}");
        // Canary: it is not read again where it seems that nothing was changed since.
        let since = one(&ends.source.admin, "select (txid_current() + 1000)::text").await;
        let since: u64 = since.parse().unwrap();
        record["b_large"]["since"] = json!([since, since]);
        if change.starts_with("update") {
            assert_eq!(ends.going_on(&record).await.rows_differing, 0, "{end}: {change}");
        }
    }
}
