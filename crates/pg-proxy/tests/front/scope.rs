//! What the database name reaches, and what a tenant's status does to it.

use insula_domain::TenantStatus;

use crate::support::{World, connect, one, pair, refused};

#[tokio::test]
async fn a_login_with_the_right_reaches_the_tenants_below_its_own() {
    let world = World::start().await;
    let mut parent = world.tenant("parent").await;
    let child = world.tenant_below("child", Some(&parent)).await;
    let grandchild = world.tenant_below("grandchild", Some(&child)).await;
    world.tenant("other").await;
    let config = |database: &str| world.config_as("parent", &parent.secret.clone(), database);

    let reaches = [("app", parent.id), ("app/child", child.id), ("app/child/grandchild", grandchild.id)];
    for (database, _) in &reaches[1..] {
        assert_eq!(refused(&config(database)).await, pair("3D000", "unknown_scope"), "without the right");
    }
    world.change_login(&mut parent, |login| login.descendants = true);
    let config = |database: &str| world.config_as("parent", &parent.secret, database);
    for (database, tenant) in reaches {
        let client = connect(&config(database)).await.unwrap();
        let role = one(&client, "select current_user::text").await;
        assert_eq!(role, insula_domain::RoleName::of_tenant(tenant).as_str(), "{database}");
    }
    for database in [
        "app/grandchild",
        "app/other",
        "app/parent",
        "app/child/other",
        "app/child/",
        "app/../other",
        "other",
        "postgres",
        "template1",
        "",
        world.database.name(),
    ] {
        let mut config = config("app");
        if !database.is_empty() {
            config.dbname(database);
            assert_eq!(refused(&config).await, pair("3D000", "unknown_scope"), "{database}");
        }
    }
}

#[tokio::test]
async fn a_missing_scope_and_one_out_of_reach_are_told_apart_by_nothing() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    world.tenant_below("child", Some(&tenant)).await;
    let mut texts = Vec::new();
    for database in ["app/child", "app/nobody"] {
        let error = connect(&world.config_as("acme", &tenant.secret, database)).await.map(drop).unwrap_err();
        let error = error.as_db_error().unwrap();
        texts.push((
            error.message().replace(database, "DATABASE"),
            error.detail().map(str::to_owned),
            error.code().clone(),
        ));
    }
    assert_eq!(texts[0], texts[1]);
}

#[tokio::test]
async fn the_status_is_shown_to_its_own_login_alone() {
    let world = World::start().await;
    let mut tenant = world.tenant("acme").await;
    for (status, expected) in [
        (TenantStatus::Suspended, pair("28000", "tenant_suspended")),
        (TenantStatus::Deleting, pair("28000", "tenant_status_conflict")),
        (TenantStatus::Deleted, pair("28000", "tenant_status_conflict")),
        (TenantStatus::Provisioning, pair("57P03", "tenant_status_conflict")),
    ] {
        world.change(&mut tenant, |route| route.status = status);
        assert_eq!(refused(&world.config(&tenant)).await, expected, "{status}");
        let config = world.config_as("token", &world.token(&tenant, false), "app");
        assert_eq!(refused(&config).await, expected, "{status}");
        let wrong = world.config_as("acme", "wrong", "app");
        assert_eq!(refused(&wrong).await, pair("28P01", "login_refused"), "{status}");
    }
    world.change(&mut tenant, |route| route.status = TenantStatus::Active);
    assert!(connect(&world.config(&tenant)).await.is_ok());
}

#[tokio::test]
async fn a_suspended_parent_closes_the_way_to_its_children() {
    let world = World::start().await;
    let mut parent = world.tenant("parent").await;
    world.tenant_below("child", Some(&parent)).await;
    world.change_login(&mut parent, |login| login.descendants = true);
    world.change(&mut parent, |route| route.status = TenantStatus::Suspended);
    let config = world.config_as("parent", &parent.secret, "app/child");
    assert_eq!(refused(&config).await, pair("28000", "tenant_suspended"));
}

#[tokio::test]
async fn a_tenant_without_a_reachable_placement_is_told_so() {
    let world = World::start().await;
    let mut tenant = world.tenant("acme").await;
    let placement = tenant.route.placement.clone();
    world.change(&mut tenant, |route| route.placement = None);
    assert_eq!(refused(&world.config(&tenant)).await, pair("57P03", "placement_unavailable"));
    world.change(&mut tenant, |route| route.placement = placement);
    assert!(connect(&world.config(&tenant)).await.is_ok(), "the canary");
    // A master key that this process does not have.
    world.change(&mut tenant, |route| route.role_key_generation = 99);
    assert_eq!(refused(&world.config(&tenant)).await, pair("57P03", "placement_unavailable"));
    // An address where nobody listens.
    world.change(&mut tenant, |route| route.role_key_generation = world.keys.current_generation());
    let endpoint = world.endpoint("127.0.0.1", insula_testkit::unused_port(), false);
    world.push(insula_route_map::Rows { endpoints: vec![endpoint], ..Default::default() });
    assert_eq!(refused(&world.config(&tenant)).await, pair("57P03", "placement_unavailable"));
}
