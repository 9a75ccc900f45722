//! Moves as a server tells of them, and what is shown of each.

use super::*;

/// A move from a pool to a schema as it goes, from its beginning to its end,
/// and what comes of it in other ways; each is what the server has told.
const TOLD: &str = include_str!("told.json");

fn told(name: &str) -> Move {
    let all: serde_json::Value = serde_json::from_str(TOLD).unwrap();
    // Each says only in what it differs from the first.
    let mut found = all["preflight"].clone();
    let changes = all.get(name).unwrap_or_else(|| panic!("{name} is not told")).as_object().unwrap();
    for (field, value) in changes {
        match (found.get_mut(field), value) {
            (Some(serde_json::Value::Object(fields)), serde_json::Value::Object(changes)) => {
                fields.extend(changes.clone())
            }
            _ => found[field] = value.clone(),
        }
    }
    serde_json::from_value(found).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The picture as a terminal would show it, with what bars are filled by.
fn drawn(name: &str) -> String {
    let part = |part: &Part| {
        let gauge = part.gauge.map_or_else(String::new, |(done, of)| format!(" [{done}/{of}]"));
        format!("{:>8}{gauge} {}", part.label, part.text)
    };
    picture(&told(name)).iter().map(part).collect::<Vec<_>>().join("\n")
}

const COURSE: [&str; 8] =
    ["preflight", "copy", "copied", "following", "verifying", "reverse", "held_up", "moved"];

#[test]
fn the_picture_grows_as_the_move_goes_on() {
    let shown: Vec<_> = COURSE.map(|name| format!("--- {name}\n{}", drawn(name))).to_vec();
    insta::assert_snapshot!(shown.join("\n"));
}

#[test]
fn without_a_terminal_every_line_has_its_columns() {
    let mut lines = vec![COLUMNS.join("\t")];
    lines.extend(COURSE.map(|name| line(&told(name))));
    assert!(lines.iter().all(|line| line.split('\t').count() == COLUMNS.len()), "{lines:#?}");
    insta::assert_snapshot!(lines.join("\n"));
}

#[test]
fn each_end_is_told_in_one_line() {
    let ends = ["moved", "completed", "rolled_back", "failed", "cancelled", "rolling_back"];
    let told = ends.map(|name| outcome(&told(name)));
    assert!(told.iter().all(|line| !line.contains('\n')));
    insta::assert_snapshot!(told.join("\n"));
}

#[test]
fn a_switch_that_nobody_waited_for_is_told_as_such() {
    let mut found = told("moved");
    found.progress.clients_waited = Some(0);
    assert!(
        outcome(&found).contains("acme-7: no transaction had to wait, 4,012,345 rows"),
        "{}",
        outcome(&found)
    );
}

#[test]
fn a_line_comes_with_every_hundredth_and_every_change_of_state() {
    let copying = told("copy");
    let with = |change: fn(&mut Move)| {
        let mut changed = copying.clone();
        change(&mut changed);
        Mark::of(&changed) != Mark::of(&copying)
    };
    assert!(!with(|found| found.progress.rows += 1));
    assert!(with(|found| found.progress.rows += 40_000));
    assert!(with(|found| found.progress.tables_done += 1));
    assert!(with(|found| found.progress.lag_bytes = 70_000));
    assert!(with(|found| found.phase = MovePhase::Follow));
    assert!(with(|found| found.progress.held_up_by = Some("a transaction".to_owned())));
    // Nothing to copy is no hundredth of anything.
    assert!(with(|found| found.progress.rows_total = 0));
}
