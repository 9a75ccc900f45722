//! The metrics of tenants: as many series as was asked for, and nothing that
//! was counted gets lost between them.

use std::collections::BTreeMap;

use crate::support::{PATIENCE, World};

/// The values of a metric, by label.
fn values(text: &str, metric: &str) -> BTreeMap<String, f64> {
    let lines = text.lines().filter_map(|line| line.strip_prefix(metric)?.strip_prefix("{tenant=\""));
    lines
        .map(|line| {
            let (label, value) = line.split_once("\"} ").unwrap();
            (label.to_owned(), value.parse().unwrap())
        })
        .collect()
}

const TRANSACTIONS: &str = "insula_pg_tenant_transactions_total";

#[tokio::test(flavor = "multi_thread")]
async fn of_three_tenants_one_has_a_series_and_the_others_share_one() {
    let world = World::start().await;
    let mut clients = Vec::new();
    // The slug of one is the label of all others.
    for (slug, transactions) in [("acme", 5), ("globex", 2), ("other", 1)] {
        let tenant = world.tenant(slug).await;
        let client = world.connect(&tenant).await;
        for _ in 0..transactions {
            client.simple_query("select 1").await.unwrap();
        }
        clients.push(client);
    }
    let look = || world.proxy.tenant_metrics(1);
    let until = async |acme: f64, other: f64| {
        let reached = async {
            while values(&look(), TRANSACTIONS)
                != [("acme".to_owned(), acme), ("other".to_owned(), other)].into()
            {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, reached).await.unwrap_or_else(|_| panic!("{}", look()));
    };
    // The first look gives all that was before it to the others.
    until(0.0, 8.0).await;
    clients[0].simple_query("select 1/0").await.unwrap_err();
    clients[1].simple_query("select 1").await.unwrap();
    until(1.0, 9.0).await;
    // Given back a moment after its transaction was counted.
    let given_back = async {
        loop {
            let text = look();
            if text.contains("insula_pg_tenant_backends{tenant=\"other\",state=\"idle\"} 2\n") {
                return text;
            }
            tokio::task::yield_now().await;
        }
    };
    let given_back = tokio::time::timeout(PATIENCE, given_back).await;
    let text = given_back.unwrap_or_else(|_| panic!("{}", look()));
    assert_eq!(values(&text, "insula_pg_tenant_errors_total")["acme"], 1.0);
    let sessions = values(&text, "insula_pg_tenant_sessions");
    assert_eq!(sessions, [("acme".to_owned(), 1.0), ("other".to_owned(), 2.0)].into());
    // The gauges and counters of every name have a head, and two labels and no third.
    for head in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let name = head.split(' ').next().unwrap();
        let lines = text.lines().filter(|line| line.starts_with(&format!("{name}{{")));
        let tenants: std::collections::BTreeSet<_> =
            lines.map(|line| line.split('"').nth(1).unwrap()).collect();
        assert_eq!(tenants, ["acme", "other"].into(), "{name}");
    }
    // With room for all each has its own, the one called as the others by its id.
    let all = values(&world.proxy.tenant_metrics(50), TRANSACTIONS);
    assert_eq!((all.len(), all["acme"], all["globex"], all["other"]), (4, 1.0, 0.0, 9.0));
}
