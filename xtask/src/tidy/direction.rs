//! Which crate may use which: the binary uses the planes, the planes the
//! mechanisms, the mechanisms the pure crates, never up; planes never use each
//! other. SQL drivers are for the SQL crates alone. Tests may use anything.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use super::Finding;

/// From the top to the bottom; a crate may use those below it, and, except
/// among planes, those beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Layer {
    Pure,
    Mechanism,
    Plane,
    Binary,
}

const LAYERS: &[(&str, Layer)] = &[
    ("insula", Layer::Binary),
    ("insula-config-service", Layer::Plane),
    ("insula-control", Layer::Plane),
    ("insula-gateway", Layer::Plane),
    ("insula-identity", Layer::Plane),
    ("insula-pg-proxy", Layer::Plane),
    ("insula-tenant-move", Layer::Mechanism),
    ("insula-access", Layer::Mechanism),
    ("insula-attack", Layer::Mechanism),
    ("insula-catalog", Layer::Mechanism),
    ("insula-config", Layer::Mechanism),
    ("insula-config-aws", Layer::Mechanism),
    ("insula-config-etcd", Layer::Mechanism),
    ("insula-config-store", Layer::Mechanism),
    ("insula-credentials", Layer::Mechanism),
    ("insula-local-postgres", Layer::Mechanism),
    ("insula-region-store", Layer::Mechanism),
    ("insula-route-map", Layer::Mechanism),
    ("insula-settings", Layer::Mechanism),
    ("insula-sql-store", Layer::Mechanism),
    ("insula-telemetry", Layer::Mechanism),
    ("insula-tenant-cluster", Layer::Mechanism),
    ("insula-workflow", Layer::Mechanism),
    ("insula-api", Layer::Pure),
    ("insula-app-schema", Layer::Pure),
    ("insula-config-flags", Layer::Pure),
    ("insula-config-model", Layer::Pure),
    ("insula-config-proto", Layer::Pure),
    ("insula-config-schema", Layer::Pure),
    ("insula-domain", Layer::Pure),
    ("insula-pg-wire", Layer::Pure),
    ("insula-pool-sql", Layer::Pure),
    ("insula-problem", Layer::Pure),
    ("insula-session-sql", Layer::Pure),
    ("insula-sql-lexer", Layer::Pure),
];

/// Crates for tests and checks: no other crate builds on them.
const TOOLS: &[&str] = &["insula-testkit", "xtask"];

/// The crates that may speak SQL.
const SQL_CRATES: &[&str] = &[
    "insula-catalog",
    "insula-config-store",
    "insula-region-store",
    "insula-sql-store",
    "insula-tenant-cluster",
];

/// What speaks SQL.
const DRIVERS: &[&str] = &["deadpool-postgres", "diesel", "postgres", "sea-orm", "sqlx", "tokio-postgres"];

/// A crate of the workspace, as `cargo metadata` tells it.
#[derive(Debug, Deserialize)]
pub struct Crate {
    name: String,
    dependencies: Vec<Dependency>,
}

#[derive(Debug, Deserialize)]
struct Dependency {
    name: String,
    /// None for a normal one, else `dev` or `build`.
    kind: Option<String>,
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Crate>,
}

/// Asks cargo for the crates of the workspace.
pub fn read(root: &Path) -> Result<Vec<Crate>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let told = Command::new(cargo)
        .args(["metadata", "--no-deps", "--format-version", "1", "--offline"])
        .current_dir(root)
        .output()
        .context("cargo metadata cannot be run")?;
    ensure!(told.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&told.stderr).trim());
    let metadata: Metadata = serde_json::from_slice(&told.stdout).context("cargo metadata")?;
    Ok(metadata.packages)
}

/// Checks the direction of every dependency that is built into something.
pub fn check(crates: &[Crate]) -> Vec<Finding> {
    let layers: BTreeMap<&str, Layer> = LAYERS.iter().copied().collect();
    let mut findings = Vec::new();
    for from in crates.iter().filter(|from| !TOOLS.contains(&from.name.as_str())) {
        let Some(layer) = layers.get(from.name.as_str()) else {
            findings
                .push(Finding::new(&from.name, "has no layer: give it one in xtask/src/tidy/direction.rs"));
            continue;
        };
        for to in from.dependencies.iter().filter(|to| to.kind.as_deref() != Some("dev")) {
            let fault = fault(&from.name, *layer, &to.name, layers.get(to.name.as_str()).copied());
            findings.extend(fault.map(|text| Finding::new(&from.name, text)));
        }
    }
    findings
}

fn fault(from: &str, layer: Layer, to: &str, to_layer: Option<Layer>) -> Option<String> {
    if DRIVERS.contains(&to) && !SQL_CRATES.contains(&from) {
        return Some(format!("uses {to}; SQL is for {}", SQL_CRATES.join(", ")));
    }
    if TOOLS.contains(&to) {
        return Some(format!("uses {to}, which is for tests: make it a dev-dependency"));
    }
    match to_layer? {
        Layer::Plane if layer == Layer::Plane => Some(format!(
            "uses {to}: planes share state through stores and the route map, and never use each other"
        )),
        above if above > layer => Some(format!("uses {to}, which stands above it")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(name: &str, dependencies: &[(&str, Option<&str>)]) -> Vec<Crate> {
        let dependencies = dependencies
            .iter()
            .map(|(name, kind)| Dependency { name: (*name).to_owned(), kind: kind.map(str::to_owned) })
            .collect();
        vec![Crate { name: name.to_owned(), dependencies }]
    }

    fn found(name: &str, dependency: &str, kind: Option<&str>) -> bool {
        !check(&one(name, &[(dependency, kind)])).is_empty()
    }

    #[test]
    fn nothing_uses_what_stands_above_it() {
        for (from, to) in [
            ("insula-domain", "insula-catalog"),
            ("insula-api", "insula-control"),
            ("insula-catalog", "insula-control"),
            ("insula-control", "insula"),
            ("insula-control", "insula-pg-proxy"),
            ("insula-pg-proxy", "insula-control"),
            ("insula-catalog", "insula-testkit"),
            ("insula-new", "serde"),
        ] {
            assert!(found(from, to, None), "{from} may not use {to}");
            assert!(found(from, to, Some("build")) || from == "insula-new", "{from} may not build with {to}");
        }
        for (from, to) in [
            ("insula", "insula-control"),
            ("insula-control", "insula-catalog"),
            ("insula-catalog", "insula-workflow"),
            ("insula-api", "insula-domain"),
            ("insula-domain", "serde"),
            ("xtask", "insula-testkit"),
        ] {
            assert!(!found(from, to, None), "{from} may use {to}");
        }
    }

    #[test]
    fn drivers_are_for_the_sql_crates_and_for_tests() {
        assert!(found("insula-control", "tokio-postgres", None));
        assert!(found("insula-pg-proxy", "deadpool-postgres", None));
        assert!(!found("insula-catalog", "tokio-postgres", None));
        assert!(!found("insula-testkit", "tokio-postgres", None));
        assert!(!found("insula-control", "tokio-postgres", Some("dev")));
        assert!(!found("insula-control", "insula-pg-proxy", Some("dev")));
    }

    #[test]
    fn the_lists_are_of_crates_that_have_a_layer() {
        for name in SQL_CRATES {
            assert!(
                LAYERS.iter().any(|(known, layer)| known == name && *layer == Layer::Mechanism),
                "{name}"
            );
        }
    }
}
