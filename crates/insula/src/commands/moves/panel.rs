//! What is shown of a move while it runs, as values: the parts of the picture
//! on a terminal, the lines elsewhere, and the one line at its end.

use indicatif::{DecimalBytes, HumanCount};
use insula_api::Move;
use insula_domain::{EstimatedFrom, MovePace, MovePhase, MoveStatus};

use super::{place, who};
use crate::output::{or_dash, tabbed, time};

/// A line of the picture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// What it is of.
    pub label: &'static str,
    /// How much of how much, where it has a bar.
    pub gauge: Option<(u64, u64)>,
    /// What stands behind.
    pub text: String,
}

/// The picture: what is ahead is not in it.
pub fn picture(found: &Move) -> Vec<Part> {
    let is_past = |phase| order(found.phase) >= order(phase);
    let mut parts = vec![Part { label: "move", gauge: None, text: heading(found) }];
    if is_past(MovePhase::Copy) {
        parts.push(copy(found));
    }
    if is_past(MovePhase::Follow) {
        parts.push(follow(found));
    }
    if is_past(MovePhase::Verify) {
        parts.push(verify(found));
    }
    if found.phase == MovePhase::Cutover || found.progress.cutovers > 0 {
        parts.push(cutover(found));
    }
    parts
}

/// The place of a phase among them.
fn order(phase: MovePhase) -> usize {
    MovePhase::ALL.iter().position(|other| *other == phase).unwrap_or_default()
}

fn heading(found: &Move) -> String {
    let (from, to) = match found.status {
        MoveStatus::RollingBack | MoveStatus::RolledBack => (&found.to, &found.from),
        _ => (&found.from, &found.to),
    };
    format!("{}: {} → {}, {}", who(found), place(from), place(to), found.phase.as_str())
}

fn copy(found: &Move) -> Part {
    let progress = &found.progress;
    // What there is to copy is an estimate.
    let total = if order(found.phase) > order(MovePhase::Copy) {
        progress.rows
    } else {
        progress.rows_total.max(progress.rows)
    };
    let mut text = format!(
        "{} of {} rows, {} of {} tables, {}",
        HumanCount(progress.rows),
        HumanCount(total),
        progress.tables_done,
        progress.tables,
        DecimalBytes(progress.bytes)
    );
    text.push_str(&pace_in(found, MovePhase::Copy));
    Part { label: "copy", gauge: Some((progress.rows, total)), text }
}

/// The pace, where a move is at this.
fn pace_in(found: &Move, phase: MovePhase) -> String {
    let pace_of = found.progress.pace.as_ref().filter(|_| found.phase == phase);
    pace_of.map_or_else(String::new, |of| format!(", {}", pace(of)))
}

/// A pace as people read it.
pub fn pace(of: &MovePace) -> String {
    let mut text = format!("{} rows/s", HumanCount(of.rows_per_second));
    if let Some(bytes) = of.bytes_per_second {
        text.push_str(&format!(", {}/s", DecimalBytes(bytes)));
    }
    if let Some(seconds) = of.seconds_left {
        text.push_str(&format!(", about {} left", length(seconds)));
    }
    text
}

/// What it is reckoned from how long it still takes.
pub fn reckoned(of: &MovePace) -> &'static str {
    match of.estimated_from {
        EstimatedFrom::TableStatistics => "by the statistics of the tables",
        EstimatedFrom::LogLag => "by the log that is left",
        EstimatedFrom::RowsCopied => "by the rows that were copied",
    }
}

/// Seconds as people read them.
fn length(seconds: u64) -> String {
    match (seconds / 3_600, seconds / 60 % 60, seconds % 60) {
        (0, 0, seconds) => format!("{seconds} s"),
        (0, minutes, seconds) => format!("{minutes} min {seconds} s"),
        (hours, minutes, _) => format!("{hours} h {minutes} min"),
    }
}

fn follow(found: &Move) -> Part {
    let progress = &found.progress;
    let applied = HumanCount(progress.rows_applied);
    let mut text = format!("{applied} rows applied, {} behind", DecimalBytes(progress.lag_bytes));
    text.push_str(&pace_in(found, MovePhase::Follow));
    Part { label: "follow", gauge: None, text }
}

fn verify(found: &Move) -> Part {
    let progress = &found.progress;
    let is_over = order(found.phase) > order(MovePhase::Verify);
    let total = if is_over { progress.rows_verified } else { progress.rows.max(progress.rows_verified) };
    let mut text = format!("{} of {} rows", HumanCount(progress.rows_verified), HumanCount(total));
    text.push_str(&pace_in(found, MovePhase::Verify));
    if let Some(checksum) = &progress.checksum {
        text.push_str(&format!(", checksum {checksum}, {}", found.comparison.as_str()));
    }
    Part { label: "verify", gauge: Some((progress.rows_verified, total)), text }
}

fn cutover(found: &Move) -> Part {
    let mut text = match found.progress.cutovers {
        0 => "about to be tried".to_owned(),
        tries => format!("try {tries}"),
    };
    if let Some(why) = &found.progress.held_up_by {
        text.push_str(&format!(", the last was taken back: {why}"));
    }
    Part { label: "cutover", gauge: None, text }
}

/// The columns of the lines where there is no terminal.
pub const COLUMNS: [&str; 12] = [
    "tenant",
    "phase",
    "tables",
    "rows",
    "bytes",
    "rows/s",
    "seconds left",
    "rows applied",
    "lag bytes",
    "rows verified",
    "cutovers",
    "held up by",
];

/// A move as such a line.
pub fn line(found: &Move) -> String {
    let progress = &found.progress;
    let cells = [
        who(found),
        found.phase.as_str().to_owned(),
        format!("{}/{}", progress.tables_done, progress.tables),
        format!("{}/{}", progress.rows, progress.rows_total),
        progress.bytes.to_string(),
        or_dash(progress.pace.as_ref().map(|pace| pace.rows_per_second).as_ref()),
        or_dash(progress.pace.as_ref().and_then(|pace| pace.seconds_left).as_ref()),
        progress.rows_applied.to_string(),
        progress.lag_bytes.to_string(),
        progress.rows_verified.to_string(),
        progress.cutovers.to_string(),
        or_dash(progress.held_up_by.as_ref()),
    ];
    tabbed(&cells)
}

/// What makes a line of its own when it changes: not every row does, but every
/// hundredth of them, and every tenfold of the lag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    status: MoveStatus,
    phase: MovePhase,
    tables_done: u32,
    copied_percent: u64,
    verified_percent: u64,
    lag_digits: u32,
    cutovers: u32,
    held_up_by: Option<String>,
}

impl Mark {
    /// That of a move.
    pub fn of(found: &Move) -> Self {
        let progress = &found.progress;
        let percent = |part: u64, whole: u64| part.saturating_mul(100).checked_div(whole).unwrap_or_default();
        Self {
            status: found.status,
            phase: found.phase,
            tables_done: progress.tables_done,
            copied_percent: percent(progress.rows, progress.rows_total),
            verified_percent: percent(progress.rows_verified, progress.rows),
            lag_digits: progress.lag_bytes.checked_ilog10().map_or(0, |digits| digits + 1),
            cutovers: progress.cutovers,
            held_up_by: progress.held_up_by.clone(),
        }
    }
}

/// What came of it.
pub fn outcome(found: &Move) -> String {
    let (tenant, id) = (who(found), found.id);
    match found.status {
        MoveStatus::Moved => {
            let until = found.window_ends_at.map_or_else(String::new, |at| {
                format!("; until {} it can be rolled back: insula move rollback {id}", time(at))
            });
            format!("{tenant} is now at {}{}{until}", place(&found.to), figures(found))
        }
        MoveStatus::Completing | MoveStatus::Completed => {
            format!("{tenant} is at {}{}; nothing is kept for a rollback", place(&found.to), figures(found))
        }
        MoveStatus::RolledBack => {
            let pause = figures_of_the_pause(found);
            format!("{tenant} is back at {}{pause}; what was written since is kept", place(&found.from))
        }
        MoveStatus::Failed => {
            let why = found.error.as_ref().map(|error| format!(": {}: {}", error.code, error.detail));
            format!("{tenant} is still at {}; the move failed{}", place(&found.from), why.unwrap_or_default())
        }
        MoveStatus::Cancelled => {
            format!("{tenant} is still at {}; the move was cancelled", place(&found.from))
        }
        MoveStatus::Running | MoveStatus::RollingBack => {
            format!("the move of {tenant} is {} ({})", found.status, found.phase.as_str())
        }
    }
}

fn figures(found: &Move) -> String {
    let checksum = found.checksum.as_ref().map_or_else(String::new, |sum| format!(", checksum {sum}"));
    format!("{}, {} rows{checksum}", figures_of_the_pause(found), HumanCount(found.rows))
}

fn figures_of_the_pause(found: &Move) -> String {
    let Some(pause) = found.pause_ms else { return String::new() };
    if found.progress.clients_waited == Some(0) {
        return ": no transaction had to wait".to_owned();
    }
    let clients = found.progress.clients_waited.map(|count| format!(" ({count} clients)"));
    format!(": transactions waited for {pause:.1} ms at the most{}", clients.unwrap_or_default())
}

#[cfg(test)]
mod tests;
