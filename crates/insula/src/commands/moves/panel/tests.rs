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
fn drawn(name: &str, pace: &Pace) -> String {
    let part = |part: &Part| {
        let gauge = part.gauge.map_or_else(String::new, |(done, of)| format!(" [{done}/{of}]"));
        format!("{:>8}{gauge} {}", part.label, part.text)
    };
    picture(&told(name), pace).iter().map(part).collect::<Vec<_>>().join("\n")
}

const COURSE: [&str; 8] =
    ["preflight", "copy", "copied", "following", "verifying", "reverse", "held_up", "moved"];

#[test]
fn the_picture_grows_as_the_move_goes_on() {
    let mut pace = Pace::default();
    pace.look(Duration::from_secs(0), 0);
    pace.look(Duration::from_secs(3), 1_236_000);
    let shown: Vec<_> = COURSE.map(|name| format!("--- {name}\n{}", drawn(name, &pace))).to_vec();
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

#[test]
fn the_pace_is_that_of_the_last_seconds() {
    let mut pace = Pace::default();
    assert_eq!(pace.rows_per_second(), None);
    pace.look(Duration::ZERO, 0);
    assert_eq!(pace.rows_per_second(), None, "one look is no pace");
    pace.look(Duration::from_secs(5), 500_000);
    assert_eq!(pace.rows_per_second(), Some(100_000));
    for second in 6..=30 {
        pace.look(Duration::from_secs(second), 500_000 + (second - 5) * 1_000);
    }
    assert_eq!(pace.rows_per_second(), Some(1_000), "what is long ago counts no more");
    pace.look(Duration::from_secs(31), 10);
    assert_eq!(pace.rows_per_second(), None, "it was begun anew");
}
