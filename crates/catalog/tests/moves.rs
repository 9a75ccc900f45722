//! The compare-and-swap of a cutover on a real PostgreSQL: who may commit, and
//! that a commit under way is waited for.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)] // helpers of tests fail as tests do

use std::time::Duration;

use insula_catalog::{Author, Catalog, CatalogClient, Cutover, MoveRecord, ToldBy};
use insula_domain::{
    Epoch, Isolation, MoveEnd, MovePhase, MoveProgress, MoveStatus, MoveTerms, OperationId, Placement,
    SchemaVersion, TenantId,
};
use insula_sql_store::{Connector, PoolSize};
use insula_testkit::TestDatabase;
use serde_json::json;
use time::OffsetDateTime;
use tokio::time::timeout;
use uuid::Uuid;

const NOW: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;

/// A catalog with a tenant that moves from a pool to a schema of its own.
struct House {
    catalog: Catalog,
    record: MoveRecord,
    database: TestDatabase,
}

impl House {
    async fn new() -> Self {
        let database = TestDatabase::create("moves").await;
        let catalog = Catalog::new(Connector::new(&database.url(), None).unwrap(), PoolSize(4));
        catalog.migrate().await.unwrap();
        let tenant = TenantId::from(Uuid::from_u128(7));
        // Only what the rows of the test refer to.
        let sql = format!(
            "insert into region_groups (name) values ('g'); insert into regions (name, created_at) values ('r', now());
             insert into plans (name) values ('p');
             insert into tiers (name, isolation, user_pool, plan, position) values
                 ('t', 'pool', 'shared', 'p', 1), ('u', 'schema', 'shared', 'p', 2);
             insert into clusters (name, region, host, port, tls, admin_user, admin_secret, key_generation,
                 system_identifier, server_version, status, capacity_pool, capacity_schema, capacity_database,
                 created_at)
             values ('c', 'r', 'h', 1, false, 'a', '', 1, '1', 150000, 'active', 1, 1, 1, now());
             insert into tenants (id, slug, name, tier, region, residency, status, key_generation, created_at)
             values ('{tenant}', 'acme', 'Acme', 't', 'r', 'g', 'active', 1, now());
             insert into placements (tenant_id, cluster, isolation, database, schema, role, epoch)
             values ('{tenant}', 'c', 'pool', 'insula_pool', 'app', 'insula_t_x', 3);"
        );
        database.connect().await.batch_execute(&sql).await.unwrap();
        let end = |tier: &str, isolation, epoch| {
            let (database, schema) = Placement::names(tenant, isolation);
            let cluster = Some("c".parse().unwrap());
            MoveEnd {
                tier: tier.parse().unwrap(),
                region: "r".parse().unwrap(),
                cluster,
                isolation,
                database,
                schema,
                epoch: Epoch(epoch),
            }
        };
        let id = OperationId::from(Uuid::from_u128(9));
        let record = MoveRecord {
            id,
            tenant,
            slug: Some("acme".parse().unwrap()),
            status: MoveStatus::Running,
            operation: id,
            source: end("t", Isolation::Pool, 3),
            target: end("u", Isolation::Schema, 4),
            schema_version: SchemaVersion(5),
            terms: MoveTerms::default(),
            progress: MoveProgress::default(),
            cancel: false,
            error: None,
            manifest: None,
            created_at: NOW,
            committed_at: None,
            window_ends_at: None,
            ended_at: None,
            keeper_until: None,
        };
        let house = Self { catalog, record, database };
        let mut client = house.client().await;
        let change = client.change(Author::new("test", NOW)).await.unwrap();
        change.add_move(&house.record).await.unwrap();
        change.audit("tenant.move", Some(tenant), "acme", &json!({})).await.unwrap();
        change.commit().await.unwrap();
        house
    }

    async fn client(&self) -> CatalogClient {
        self.catalog.client().await.unwrap()
    }

    fn cutover(&self, number: i32) -> Cutover<'_> {
        Cutover {
            id: self.record.id,
            tenant: self.record.tenant,
            number,
            epoch: self.record.source.epoch,
            to: &self.record.target,
            status: MoveStatus::Moved,
            window_ends_at: Some(NOW),
        }
    }

    /// Whether a try with this number commits.
    async fn commits(&self, number: i32) -> bool {
        let mut client = self.client().await;
        let change = client.change(Author::new("test", NOW)).await.unwrap();
        let swapped = change.cut_over(&self.cutover(number)).await.unwrap();
        change.audit("tenant.moved", Some(self.record.tenant), "acme", &json!({})).await.unwrap();
        change.commit().await.unwrap();
        swapped
    }
}

#[tokio::test]
async fn only_the_last_try_commits_and_only_once() {
    let house = House::new().await;
    let client = house.client().await;
    let first = client.next_try(house.record.id).await.unwrap().unwrap();
    let second = client.next_try(house.record.id).await.unwrap().unwrap();
    assert_eq!((first.epoch, second.epoch, second.cancel), (Epoch(3), Epoch(3), false));
    assert!(!house.commits(first.number).await, "an earlier try has committed");
    assert!(house.commits(second.number).await);
    assert!(!house.commits(second.number).await, "it has committed twice");

    let tenant = client.tenant(house.record.tenant).await.unwrap().unwrap();
    let placement = tenant.placement.unwrap();
    assert_eq!((placement.epoch, placement.isolation), (Epoch(4), Isolation::Schema));
    assert_eq!(placement.schema, house.record.target.schema);
    assert_eq!(tenant.tier.as_str(), "u");
    let moved = client.tenant_move(house.record.id).await.unwrap().unwrap();
    assert_eq!((moved.status, moved.committed_at), (MoveStatus::Moved, Some(NOW)));
    assert_eq!((moved.source, moved.schema_version), (house.record.source.clone(), SchemaVersion(5)));
    assert_eq!(client.next_try(house.record.id).await.unwrap().unwrap().epoch, Epoch(4));
}

/// The answer to a commit may be lost: whoever asks next waits for it.
#[tokio::test]
async fn a_try_begins_behind_a_commit_that_is_under_way() {
    let house = House::new().await;
    let first = house.client().await.next_try(house.record.id).await.unwrap().unwrap();
    let mut client = house.client().await;
    let change = client.change(Author::new("test", NOW)).await.unwrap();
    assert!(change.cut_over(&house.cutover(first.number)).await.unwrap());
    change.audit("tenant.moved", Some(house.record.tenant), "acme", &json!({})).await.unwrap();

    let other = house.client().await;
    let mut next = Box::pin(other.next_try(house.record.id));
    let early = timeout(Duration::from_millis(200), &mut next).await;
    assert!(early.is_err(), "the next try has not waited for the commit");
    change.commit().await.unwrap();
    assert_eq!(next.await.unwrap().unwrap().epoch, Epoch(4), "it does not see what it has waited for");
}

/// Not for ever: a process may be suspended in the midst of its commit, or cut off.
#[tokio::test]
async fn a_commit_of_which_nothing_more_is_heard_is_not_waited_for_for_ever() {
    let house = House::new().await;
    let first = house.client().await.next_try(house.record.id).await.unwrap().unwrap();
    let mut client = house.client().await;
    client.prepare_cutover().await.unwrap();
    let change = client.change(Author::new("test", NOW)).await.unwrap();
    change.end_when_silent().await.unwrap();
    assert!(change.cut_over(&house.cutover(first.number)).await.unwrap());
    change.audit("tenant.moved", Some(house.record.tenant), "acme", &json!({})).await.unwrap();

    let other = house.client().await;
    let next = timeout(Duration::from_secs(60), other.next_try(house.record.id)).await;
    let next = next.expect("it is waited for").unwrap().unwrap();
    assert_eq!(next.epoch, Epoch(3), "canary: nothing was committed");
    change.commit().await.unwrap_err();
    assert!(house.commits(next.number).await);
}

/// Others work with the connection later, and in their own time.
#[tokio::test]
async fn only_the_commit_of_a_cutover_ends_when_nothing_is_heard_of_it() {
    let house = House::new().await;
    let mut client = house.client().await;
    client.prepare_cutover().await.unwrap();
    let shown = "show idle_in_transaction_session_timeout";
    for (is_cutover, expected) in [(false, "0"), (true, "5s"), (false, "0")] {
        let change = client.change(Author::new("test", NOW)).await.unwrap();
        if is_cutover {
            change.end_when_silent().await.unwrap();
        }
        let row = change.transaction().query_one(shown, &[]).await.unwrap();
        assert_eq!(row.get::<_, &str>(0), expected);
        change.audit("test", None, "acme", &json!({})).await.unwrap();
        change.commit().await.unwrap();
    }
}

#[tokio::test]
async fn only_who_has_to_say_it_now_says_how_far_a_move_is() {
    let house = House::new().await;
    let (id, other) = (house.record.id, OperationId::from(Uuid::from_u128(10)));
    let admin = house.database.connect().await;
    let give = async |run: OperationId, token: i64| {
        let sql = format!(
            "insert into workflow_runs (id, workflow, version, subject, exclusive, input, status, undoing, steps, token,
                                        available_at, created_at)
             values ('{}', 'w', 1, 's', false, '{{}}', 'running', false, '[]', {token}, now(), now())
             on conflict (id) do update set token = excluded.token",
            run.as_uuid()
        );
        admin.batch_execute(&sql).await.unwrap();
    };
    let mut client = house.client().await;
    let said = async |told_by: ToldBy, phase| {
        let progress = MoveProgress { phase, ..MoveProgress::default() };
        let client = house.client().await;
        client.set_move_progress(id, told_by, &progress).await.unwrap();
        client.tenant_move(id).await.unwrap().unwrap().progress.phase == phase
    };
    let run = |run, token: i64| ToldBy::Run(run, token.into());
    give(id, 1).await;
    assert!(said(run(id, 1), MovePhase::Copy).await, "canary");
    assert!(!said(ToldBy::Keeper, MovePhase::Done).await, "it is not moved yet");
    // Another worker has the run.
    give(id, 2).await;
    assert!(!said(run(id, 1), MovePhase::Follow).await);
    assert!(said(run(id, 2), MovePhase::Verify).await);
    let first = client.next_try(id).await.unwrap().unwrap();
    assert!(house.commits(first.number).await);
    assert!(said(run(id, 2), MovePhase::Done).await);
    assert!(!said(run(id, 1), MovePhase::Cutover).await);
    assert!(said(ToldBy::Keeper, MovePhase::Follow).await, "canary");
    // Another run is at work on it.
    give(other, 1).await;
    let becomes = async |client: &mut CatalogClient, status| {
        let change = client.change(Author::new("test", NOW)).await.unwrap();
        change.set_move_status(id, status, other).await.unwrap();
        change.audit("test", Some(house.record.tenant), "acme", &json!({})).await.unwrap();
        change.commit().await.unwrap();
    };
    becomes(&mut client, MoveStatus::RollingBack).await;
    assert!(!said(run(id, 2), MovePhase::Copy).await);
    assert!(!said(ToldBy::Keeper, MovePhase::Reverse).await);
    assert!(said(run(other, 1), MovePhase::Cutover).await);
    // It is over.
    for status in [MoveStatus::RolledBack, MoveStatus::Failed, MoveStatus::Cancelled, MoveStatus::Completed] {
        becomes(&mut client, status).await;
        for told_by in [run(id, 2), run(other, 1), ToldBy::Keeper] {
            assert!(!said(told_by, MovePhase::Copy).await, "{status} {told_by:?}");
        }
    }
}

#[tokio::test]
async fn both_ends_of_a_move_have_their_room() {
    let house = House::new().await;
    let mut client = house.client().await;
    for isolation in [Isolation::Pool, Isolation::Schema, Isolation::Database] {
        let change = client.change(Author::new("test", NOW)).await.unwrap();
        let rooms = change.lock_cluster_room(&"r".parse().unwrap(), isolation).await.unwrap();
        let used = u32::from(isolation != Isolation::Database);
        assert_eq!(rooms.iter().map(|room| room.used).collect::<Vec<_>>(), [used], "{isolation}");
    }
    let first = client.next_try(house.record.id).await.unwrap().unwrap();
    assert!(house.commits(first.number).await);
    let change = client.change(Author::new("test", NOW)).await.unwrap();
    let rooms = change.lock_cluster_room(&"r".parse().unwrap(), Isolation::Pool).await.unwrap();
    assert_eq!(rooms[0].used, 1, "the source's room is given away before the move is completed");
}

#[tokio::test]
async fn a_keeper_has_a_move_until_its_time_is_over() {
    let house = House::new().await;
    let client = house.client().await;
    let first = client.next_try(house.record.id).await.unwrap().unwrap();
    let (soon, later) = (NOW + Duration::from_secs(10), NOW + Duration::from_secs(20));
    assert!(client.keep_moved("a", NOW, soon, &[], 10).await.unwrap().is_empty(), "it is not moved yet");
    assert!(house.commits(first.number).await);
    assert_eq!(client.keep_moved("a", NOW, soon, &[], 10).await.unwrap().len(), 1);
    assert!(client.keep_moved("b", NOW, soon, &[], 10).await.unwrap().is_empty(), "two keep it");
    assert_eq!(client.keep_moved("a", NOW, later, &[], 10).await.unwrap().len(), 1, "it cannot go on");
    let after = later + Duration::from_secs(1);
    assert_eq!(
        client.keep_moved("b", after, after + Duration::from_secs(9), &[], 10).await.unwrap().len(),
        1
    );
    // One that is lost takes nobody's place.
    let mut client = house.client().await;
    let change = client.change(Author::new("test", NOW)).await.unwrap();
    change.set_move_error(house.record.id, "lost", "It is.").await.unwrap();
    change.audit("tenant.move.stale", Some(house.record.tenant), "acme", &json!({})).await.unwrap();
    change.commit().await.unwrap();
    let (much, more) = (after + Duration::from_secs(20), after + Duration::from_secs(29));
    assert!(client.keep_moved("b", much, more, &["lost"], 10).await.unwrap().is_empty());
    assert_eq!(client.keep_moved("b", much, more, &["away"], 10).await.unwrap().len(), 1);
}

#[tokio::test]
async fn what_was_left_is_found_until_it_is_cleared_and_where_a_tenant_was_is_known() {
    let house = House::new().await;
    let (id, tenant) = (house.record.id, house.record.tenant);
    let mut client = house.client().await;
    let (there, nowhere) = ("gone".parse().unwrap(), "nowhere".parse().unwrap());
    let change = client.change(Author::new("test", NOW)).await.unwrap();
    let left = json!({"end": "target", "cluster": "gone", "because": "It was away."});
    change.set_move_manifest(id, &json!({"left": left})).await.unwrap();
    change.audit("tenant.move.left", Some(tenant), "acme", &json!({})).await.unwrap();
    change.commit().await.unwrap();
    assert!(client.moves_with_left(9).await.unwrap().is_empty(), "it has not ended");
    assert_eq!(client.left_on(tenant, &there).await.unwrap(), Some(id));
    assert_eq!(client.left_on(tenant, &nowhere).await.unwrap(), None);

    let change = client.change(Author::new("test", NOW)).await.unwrap();
    change.set_move_status(id, MoveStatus::Failed, id).await.unwrap();
    // What is noted later stands beside it.
    change.set_move_manifest(id, &json!({"counted": 1})).await.unwrap();
    change.audit("tenant.move.undone", Some(tenant), "acme", &json!({})).await.unwrap();
    change.commit().await.unwrap();
    assert_eq!(client.moves_with_left(9).await.unwrap().len(), 1);

    let change = client.change(Author::new("test", NOW)).await.unwrap();
    change.clear_move_left(id, &json!({"schema": "s"})).await.unwrap();
    change.audit("tenant.move.cleared", Some(tenant), "acme", &json!({})).await.unwrap();
    change.commit().await.unwrap();
    assert!(client.moves_with_left(9).await.unwrap().is_empty());
    assert_eq!(client.left_on(tenant, &there).await.unwrap(), None);
    let manifest = client.tenant_move(id).await.unwrap().unwrap().manifest.unwrap();
    assert_eq!(manifest, json!({"counted": 1, "removed_later": {"schema": "s"}}));

    // Of this move itself, and of one that has not come to its cutover, the target says nothing.
    let (c, other) = ("c".parse().unwrap(), OperationId::from(Uuid::from_u128(10)));
    assert!(client.was_served_from(tenant, &c, other).await.unwrap(), "it was its source");
    assert!(!client.was_served_from(tenant, &c, id).await.unwrap());
    assert!(!client.was_served_from(tenant, &nowhere, other).await.unwrap());
}

#[tokio::test]
async fn a_word_that_a_move_is_to_end_goes_with_its_commit() {
    let house = House::new().await;
    let mut client = house.client().await;
    let change = client.change(Author::new("test", NOW)).await.unwrap();
    change.cancel_move(house.record.id).await.unwrap();
    change.audit("tenant.move.cancel", Some(house.record.tenant), "acme", &json!({})).await.unwrap();
    change.commit().await.unwrap();
    let begun = client.next_try(house.record.id).await.unwrap().unwrap();
    assert!(begun.cancel, "it is not heard at all");
    assert!(house.commits(begun.number).await);
    assert!(
        !client.next_try(house.record.id).await.unwrap().unwrap().cancel,
        "its rollback would be cancelled"
    );
}
