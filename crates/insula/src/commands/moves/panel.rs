//! What is shown of a move while it runs, as values: the parts of the picture
//! on a terminal, the lines elsewhere, and the one line at its end.

use std::collections::VecDeque;
use std::time::Duration;

use indicatif::{DecimalBytes, HumanCount};
use insula_api::Move;
use insula_domain::{MovePhase, MoveStatus};

use super::{place, who};
use crate::output::{or_dash, time};

/// How far back the pace looks.
const PACE_WINDOW: Duration = Duration::from_secs(10);

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

/// How fast rows are copied, as far as it was looked at.
#[derive(Debug, Default)]
pub struct Pace {
    samples: VecDeque<(Duration, u64)>,
}

impl Pace {
    /// So many rows were there at this time since the beginning.
    pub fn look(&mut self, at: Duration, rows: u64) {
        // A copy that was begun anew has fewer rows than before.
        if self.samples.back().is_some_and(|(_, before)| *before > rows) {
            self.samples.clear();
        }
        self.samples.push_back((at, rows));
        while self.samples.front().is_some_and(|(first, _)| at.saturating_sub(*first) > PACE_WINDOW) {
            self.samples.pop_front();
        }
    }

    /// Rows in a second, once something was seen to go on.
    pub fn rows_per_second(&self) -> Option<u64> {
        let ((begun, first), (now, last)) = (self.samples.front()?, self.samples.back()?);
        let milliseconds = u64::try_from(now.saturating_sub(*begun).as_millis()).ok()?;
        let rows = last.saturating_sub(*first);
        rows.saturating_mul(1_000).checked_div(milliseconds).filter(|rate| *rate > 0)
    }
}

/// The picture: what is ahead is not in it.
pub fn picture(found: &Move, pace: &Pace) -> Vec<Part> {
    let is_past = |phase| order(found.phase) >= order(phase);
    let mut parts = vec![Part { label: "move", gauge: None, text: heading(found) }];
    if is_past(MovePhase::Copy) {
        parts.push(copy(found, pace));
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

fn copy(found: &Move, pace: &Pace) -> Part {
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
    if let Some(rate) = pace.rows_per_second().filter(|_| found.phase == MovePhase::Copy) {
        let seconds = (total - progress.rows).div_ceil(rate);
        text.push_str(&format!(", {} rows/s, {} left", HumanCount(rate), length(seconds)));
    }
    Part { label: "copy", gauge: Some((progress.rows, total)), text }
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
    let text = format!("{applied} rows applied, {} behind", DecimalBytes(progress.lag_bytes));
    Part { label: "follow", gauge: None, text }
}

fn verify(found: &Move) -> Part {
    let progress = &found.progress;
    let is_over = order(found.phase) > order(MovePhase::Verify);
    let total = if is_over { progress.rows_verified } else { progress.rows.max(progress.rows_verified) };
    let mut text = format!("{} of {} rows", HumanCount(progress.rows_verified), HumanCount(total));
    if let Some(checksum) = &progress.checksum {
        text.push_str(&format!(", checksum {checksum}"));
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
pub const COLUMNS: [&str; 10] = [
    "tenant",
    "phase",
    "tables",
    "rows",
    "bytes",
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
        progress.rows_applied.to_string(),
        progress.lag_bytes.to_string(),
        progress.rows_verified.to_string(),
        progress.cutovers.to_string(),
        or_dash(progress.held_up_by.as_ref()),
    ];
    cells.map(|cell| cell.replace(['\t', '\n'], " ")).join("\t")
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
        MoveStatus::Failed | MoveStatus::Cancelled => {
            let why = found.error.as_ref().map(|error| format!(": {}: {}", error.code, error.detail));
            let was = if found.status == MoveStatus::Failed { "failed" } else { "was cancelled" };
            let at = place(&found.from);
            format!("{tenant} is still at {at}; the move {was}{}", why.unwrap_or_default())
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
    let clients = found.progress.clients_waited.map(|count| format!(" ({count} clients)"));
    format!(": transactions waited for {pause:.1} ms at the most{}", clients.unwrap_or_default())
}

#[cfg(test)]
mod tests;
