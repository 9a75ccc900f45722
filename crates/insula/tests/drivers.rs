//! The same unchanged programs, with psql, psycopg and SQLAlchemy, as four
//! tenants on four isolation models: the same keys, and each sees its own.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests are tests

mod common;

use std::path::Path;
use std::process::Command;

use common::{TENANTS, World};
use serde_json::Value;

/// The interpreter that `make deps` sets up.
fn python() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.venv/bin/python");
    assert!(path.exists(), "{} is not there: make deps sets it up", path.display());
    path.display().to_string()
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {out}{err}");
    out.into_owned()
}

fn psql(url: &str, arguments: &[&str]) -> String {
    let psql = insula_testkit::installation().program("psql");
    let psql = if psql.exists() { psql } else { "psql".into() };
    run(Command::new(psql).arg(url).args(["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1"]).args(arguments))
}

#[tokio::test(flavor = "multi_thread")]
async fn unchanged_programs_serve_all_four() {
    let world = World::start().await;
    world.apply_shop();
    for (slug, tier, region) in TENANTS {
        world.create(slug, tier, region);
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/drivers/shop.py");
        let said = run(Command::new(python()).arg(script).args([&world.url(slug), slug]));
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
        assert_eq!(psql(&url, &["-c", "select name from customers"]).trim(), format!("Grace of {slug}"));
        assert_eq!(psql(&url, &["-c", "show insula.tenant"]).trim(), slug);
        assert_eq!(psql(&url, &["-c", "show insula.epoch"]).trim(), "1");
        // What psql asks the catalogs.
        let tables = psql(&url, &["-c", "\\dt"]);
        assert!(tables.contains("customers") && !tables.contains("pool_tenants"), "{slug}: {tables}");
    }
    world.doctor_is_content();
}
