//! A world in which tenants move, by the command line; and what must be left of
//! a move when it is over.

use std::time::{Duration, Instant};

use insula_testkit::{BANK, Opening, TestServer};
use serde_json::Value;

use crate::common::{Said, World};

/// What tenants have before they move.
pub const OPENING: Opening = Opening { accounts: 20, history: 2_000 };

/// The tier of each model.
pub const TIERS: [(&str, &str); 4] =
    [("pool", "free"), ("schema", "standard"), ("database", "business"), ("cluster", "enterprise")];

/// The tier that a model is sold as.
pub fn tier_of(model: &str) -> &'static str {
    TIERS.iter().find(|(name, _)| *name == model).unwrap().1
}

/// Insula with the bank as its application.
pub async fn world() -> World {
    let world = World::start().await;
    // Every plan lets all tellers in.
    for (_, tier) in TIERS {
        let said = world.run(&["plan", "set", tier, "--database-connections", "100"]);
        assert!(said.ok, "{}", said.err);
    }
    apply(&world, "0001_bank.sql", BANK);
    world
}

/// Applies a version more.
pub fn apply(world: &World, file: &str, sql: &str) {
    let folder = world.folder.join("schema");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join(file), sql).unwrap();
    let said = world.run(&["schema", "apply", &folder.display().to_string()]);
    assert!(said.ok, "{}\n{}", said.err, world.log());
}

/// A tenant with a bank that is opened.
pub async fn banker(world: &World, slug: &str, tier: &str) {
    world.create(slug, tier, "us-east-1");
    OPENING.write(&world.connect(slug).await).await.unwrap();
}

/// `insula tenant move SLUG …`
pub fn moving(world: &World, slug: &str, arguments: &[&str]) -> Said {
    world.run(&[&["tenant", "move", slug, "-o", "json"][..], arguments].concat())
}

/// A move that comes to its cutover; the move.
pub fn moved(world: &World, slug: &str, arguments: &[&str]) -> Value {
    let said = moving(world, slug, arguments);
    assert!(said.ok, "{slug} {arguments:?}: {}\n{}", said.err, world.log());
    let found = said.json();
    assert_eq!((&found["status"], &found["phase"]), (&"moved".into(), &"done".into()), "{found}");
    assert!(found["checksum"].is_string() && found["pause_ms"].as_f64().is_some(), "{found}");
    found
}

/// `insula move VERB ID`
pub fn order(world: &World, verb: &str, found: &Value) -> Said {
    world.run(&["move", verb, found["id"].as_str().unwrap(), "-o", "json"])
}

/// The order is carried out, and the move has this status then.
pub fn ordered(world: &World, verb: &str, found: &Value, status: &str) -> Value {
    let said = order(world, verb, found);
    assert!(said.ok, "{verb}: {}\n{}", said.err, world.log());
    let found = said.json();
    assert_eq!(found["status"], status, "{found}");
    found
}

/// Looks at a move until it is as it should be.
pub fn until(world: &World, id: &str, is_so: impl Fn(&Value) -> bool) {
    let begun = Instant::now();
    loop {
        let found = world.run(&["move", "show", id, "-o", "json"]).json();
        if is_so(&found) {
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(120), "{found}\n{}", world.log());
        std::thread::sleep(Duration::from_millis(50)); // between two looks, not for an effect
    }
}

/// The tenant is there, and the doctor content; nothing of a move is left on any
/// server.
pub async fn is_settled(world: &World, slug: &str, model: &str, region: &str) {
    let tenant = world.tenant(slug);
    let is = (&tenant["placement"]["isolation"], &tenant["region"], &tenant["tier"]);
    assert_eq!(is, (&model.into(), &region.into(), &tier_of(model).into()), "{tenant}");
    world.doctor_is_content();
    for server in [&world.us, &world.eu] {
        assert_eq!(left_over(server).await, Vec::<String>::new());
    }
}

/// What moves leave on a server while they are at work: slots, progress of
/// replication, publications of every database.
pub async fn left_over(server: &TestServer) -> Vec<String> {
    let admin = server.connect("postgres").await;
    let of_the_server = "select 'slot ' || slot_name from pg_replication_slots where slot_name like 'insula\\_%'
                         union all select 'origin ' || roname from pg_replication_origin where roname like 'insula\\_%'";
    let mut found = Vec::new();
    found.extend(admin.query(of_the_server, &[]).await.unwrap().iter().map(|row| row.get::<_, String>(0)));
    // Those that the doctor makes to look into come and go.
    let databases = "select datname::text from pg_database
                     where datallowconn and not datistemplate and datname not like 'insula\\_scratch\\_%'";
    for row in admin.query(databases, &[]).await.unwrap() {
        let name: String = row.get(0);
        let publications =
            "select 'publication ' || pubname from pg_publication where pubname like 'insula\\_%'";
        let rows = server.connect(&name).await.query(publications, &[]).await.unwrap();
        found.extend(rows.iter().map(|row| format!("{} in {name}", row.get::<_, String>(0))));
    }
    found
}
