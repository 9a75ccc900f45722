//! The same unchanged programs, with psql, psycopg and SQLAlchemy, as four
//! tenants on four isolation models: the same keys, and each sees its own.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests are tests

mod common;

use common::programs::{file, psql, python, run};
use common::{TENANTS, World};
use serde_json::Value;

fn asked(url: &str, command: &str) -> String {
    run(psql(url).args(["-A", "-t", "-q", "-c", command]))
}

#[tokio::test(flavor = "multi_thread")]
async fn unchanged_programs_serve_all_four() {
    let world = World::start().await;
    world.apply_shop();
    for (slug, tier, region) in TENANTS {
        world.create(slug, tier, region);
        let said = run(python("python").arg(file("drivers/shop.py")).args([&world.url(slug), slug]));
        let said: Value = serde_json::from_str(&said).unwrap();
        assert_eq!(said["copied"], format!("grace@example.com\tGrace of {slug}\n"), "{slug}");
        assert_eq!(said["own_products"], 50, "{slug}");
        assert_eq!(said["products"], 51, "{slug}");
        assert_eq!(said["order_total"], 1500, "{slug}");
        assert_eq!(said["stock_left"], 7, "{slug}: the trigger has taken three");
        assert_eq!(said["order_without_customer"], true, "{slug}");
        assert_eq!(said["customers"], serde_json::json!([format!("Grace of {slug}")]), "{slug}");
    }
    for (slug, ..) in TENANTS {
        let url = world.url(slug);
        assert_eq!(asked(&url, "select name from customers").trim(), format!("Grace of {slug}"));
        assert_eq!(asked(&url, "show insula.tenant").trim(), slug);
        assert_eq!(asked(&url, "show insula.epoch").trim(), "1");
        // What psql asks the catalogs.
        let tables = asked(&url, "\\dt");
        assert!(tables.contains("customers") && !tables.contains("pool_tenants"), "{slug}: {tables}");
    }
    world.doctor_is_content();
}
