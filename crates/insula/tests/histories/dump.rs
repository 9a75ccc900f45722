//! What `pg_dump` says of a schema, taken apart into its objects, so that two
//! schemas can be compared by a witness that knows nothing of Insula: tables,
//! columns, types, defaults, constraints, indexes, views, functions, triggers,
//! sequences, comments, and the settings of each.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

/// Objects by kind and name, with the statements that make them.
pub type Objects = BTreeMap<String, String>;

/// Reads the schema of a database as its superuser.
pub fn dump(url: &str, schema: &str) -> Objects {
    let program = insula_testkit::installation().program("pg_dump");
    let program = if program.exists() { program } else { "pg_dump".into() };
    let arguments = ["--schema-only", "--no-owner", "--no-privileges", "--schema", schema, url];
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    objects(&String::from_utf8(output.stdout).unwrap(), schema)
}

/// Takes a dump apart. The schema's own name becomes `public`.
fn objects(text: &str, schema: &str) -> Objects {
    let text = text.replace(&format!("{schema}."), "public.");
    let mut all = Objects::new();
    for block in text.split("\n--\n-- Name: ").skip(1) {
        let Some((head, body)) = block.split_once("\n--\n") else { panic!("{block}") };
        let mut parts = head.split("; ");
        let (name, kind) = (parts.next().unwrap(), parts.next().unwrap());
        let is_schemas = kind == "Type: SCHEMA" || name.starts_with("SCHEMA ");
        if is_schemas || name.contains(" insula_capture_") {
            continue;
        }
        let body = body.split("\n--\n-- PostgreSQL database dump complete").next().unwrap();
        let lines = body.lines().filter(|line| !line.is_empty() && !line.starts_with("SET default_"));
        let body = lines.collect::<Vec<_>>().join("\n");
        let object = all.entry(format!("{kind} {name}")).or_default();
        *object = format!("{object}{body}");
    }
    all
}

/// The pool form of what a plain dump says, as far as it can be told from a
/// dump: without what every table of a pool has.
pub fn without_the_tenant(pool: Objects) -> Objects {
    let indexes = pool.iter().filter(|(_, text)| text.ends_with("(tenant_id);"));
    let only_ours: BTreeSet<String> =
        indexes.filter_map(|(object, _)| object.strip_prefix("Type: INDEX ").map(str::to_owned)).collect();
    let is_ours = |object: &str| {
        let index = ["Type: INDEX ATTACH ", "Type: INDEX "].iter().find_map(|kind| object.strip_prefix(kind));
        object.starts_with("Type: POLICY ")
            || object.starts_with("Type: ROW SECURITY ")
            || index.is_some_and(|index| only_ours.contains(index))
    };
    let kept = pool.into_iter().filter(|(object, _)| !is_ours(object));
    kept.map(|(object, text)| (object, plain(&text))).collect()
}

/// The statements of one object without what the pool form adds.
fn plain(text: &str) -> String {
    let mut text = text
        .replace("(tenant_id, ", "(")
        .replace(" WITH (security_invoker='true')", "")
        .replace(", security_invoker='true'", "")
        .replace("\n    SET search_path TO 'app', 'public', 'pg_temp'", "");
    for action in [" SET NULL (", " SET DEFAULT ("] {
        if let Some((before, rest)) = text.clone().split_once(action) {
            let behind = rest.split_once(')').map_or("", |(_, behind)| behind);
            text = format!("{before}{}{behind}", action.trim_end_matches(" ("));
        }
    }
    text
}

/// A table's columns stand elsewhere in a pool where they were added later.
fn in_any_order(text: &str) -> BTreeSet<&str> {
    let is_ours = |line: &str| {
        line.starts_with("tenant_id uuid DEFAULT insula.current_tenant()")
            || line.ends_with(" FORCE ROW LEVEL SECURITY;")
    };
    text.lines().map(|line| line.trim().trim_end_matches(',')).filter(|line| !is_ours(line)).collect()
}

/// Where two differ, object by object. With `in_order` columns must stand in
/// the same places.
pub fn differences(expected: &Objects, found: &Objects, in_order: bool) -> Vec<String> {
    let same = |object: &str, one: &str, other: &str| {
        one == other
            || !in_order && object.starts_with("Type: TABLE ") && in_any_order(one) == in_any_order(other)
    };
    let changed = expected.iter().filter_map(|(object, text)| match found.get(object) {
        None => Some(format!("{object} is missing: {text}")),
        Some(other) if !same(object, text, other) => Some(format!("{object}: {text}\n<>\n{other}")),
        Some(_) => None,
    });
    let more = found.iter().filter(|(object, _)| !expected.contains_key(*object));
    changed.chain(more.map(|(object, text)| format!("{object} is not expected: {text}"))).collect()
}
