//! What is measured of moves. No label names a tenant.

use std::time::Duration;

use insula_catalog::MoveRecord;
use insula_domain::{MovePhase, MoveStatus, WayBack};
use insula_tenant_cluster::moving::{FALLEN_BACK, STREAMED};
use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use time::OffsetDateTime;

use super::way_back;

const MOVES: &str = "insula_moves_total";
const OPEN: &str = "insula_moves_open";
const WAYS_BACK: &str = "insula_moves_ways_back";
const PAUSE: &str = "insula_move_pause_seconds";
const ROWS: &str = "insula_move_rows_total";
const BYTES: &str = "insula_move_bytes_total";
const PHASES: &str = "insula_moves_phases";
const LAG: &str = "insula_moves_lag_bytes";
const ACT: &str = "insula_move_act_seconds";
const HELD: &str = "insula_move_held_seconds";
const NARROWED: &str = "insula_move_narrowed_seconds";
const TAKEN_BACK: &str = "insula_move_cutovers_taken_back_total";
const RESTED: &str = "insula_move_rested_milliseconds_total";

/// Says what the metrics are, once the recorder of the process is there.
pub fn describe() {
    describe_counter!(MOVES, "Moves that have come to a status, by status");
    describe_gauge!(OPEN, "Moves that have not ended, by status");
    describe_gauge!(
        WAYS_BACK,
        "Moves that are done and not ended, by how it stands with the way back: kept, waiting, closed"
    );
    describe_histogram!(PAUSE, Unit::Seconds, "Longest wait of a client at a cutover, as the fronts saw it");
    describe_counter!(ROWS, "Rows that moves have copied");
    describe_counter!(
        RESTED,
        "Milliseconds that moves did not read, because their source's server was slow for others"
    );
    describe_counter!(BYTES, Unit::Bytes, "Bytes that moves have copied");
    describe_gauge!(PHASES, "Moves that are under way, by what they are at");
    describe_gauge!(
        LAG,
        Unit::Bytes,
        "Log of a source that is not applied yet: that of the move that is most behind"
    );
    describe_counter!(STREAMED, "Large transactions that moves have applied while they ran");
    describe_counter!(
        FALLEN_BACK,
        "How often moves gave up large transactions that ran, and applied them after their commit"
    );
    describe_counter!(TAKEN_BACK, "Tries at a cutover that were taken back");
    describe_histogram!(ACT, Unit::Seconds, "Time of an act of a cutover, by act");
    describe_histogram!(
        NARROWED,
        Unit::Seconds,
        "Time for which a tenant had to do with few backends around a try at a cutover"
    );
    describe_histogram!(
        HELD,
        Unit::Seconds,
        "Time from when fronts were told to hold a tenant to the commit of its move"
    );
}

/// A move has come to a status.
pub fn is(status: MoveStatus) {
    counter!(MOVES, "status" => status.as_str()).increment(1);
}

/// A cutover has come through.
pub fn paused(longest: Duration) {
    histogram!(PAUSE).record(longest.as_secs_f64());
}

/// A tenant has had to do with few backends for so long; the same in microseconds.
pub fn was_narrowed(took: Duration) -> u64 {
    histogram!(NARROWED).record(took.as_secs_f64());
    u64::try_from(took.as_micros()).unwrap_or(u64::MAX)
}

/// A tenant was narrowed for its cutover.
pub fn narrowed(took: Duration) {
    histogram!(ACT, "act" => "narrow").record(took.as_secs_f64());
}

/// Rows were copied.
pub fn copied(rows: u64, bytes: u64) {
    counter!(ROWS).increment(rows);
    counter!(BYTES).increment(bytes);
}

/// A move has rested for the sake of others.
pub fn rested(time: Duration) {
    counter!(RESTED).increment(u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
}

/// A try at a cutover was taken back.
pub fn taken_back() {
    counter!(TAKEN_BACK).increment(1);
}

/// How many moves have not ended, what those are at that are under way and how far
/// the last of them is behind, and how it stands with the way back of those that
/// can be taken back.
pub fn open(records: &[MoveRecord], now: OffsetDateTime) {
    for status in MoveStatus::ALL.into_iter().filter(|status| status.is_open()) {
        let count = records.iter().filter(|record| record.status == status).count();
        gauge!(OPEN, "status" => status.as_str()).set(as_value(count));
    }
    let under_way = || {
        let is_under_way = |status| matches!(status, MoveStatus::Running | MoveStatus::RollingBack);
        records.iter().filter(move |record| is_under_way(record.status)).map(|record| &record.progress)
    };
    for phase in MovePhase::ALL {
        let count = under_way().filter(|progress| progress.phase == phase).count();
        gauge!(PHASES, "phase" => phase.as_str()).set(as_value(count));
    }
    let furthest = under_way().map(|progress| progress.lag_bytes).max().unwrap_or(0);
    gauge!(LAG).set(as_value(usize::try_from(furthest).unwrap_or(usize::MAX)));
    for way in WayBack::ALL {
        let count = records.iter().filter(|record| way_back::of(record, now) == Some(way)).count();
        gauge!(WAYS_BACK, "state" => way.as_str()).set(as_value(count));
    }
}

#[allow(clippy::cast_precision_loss, reason = "far fewer than 2^52")]
fn as_value(count: usize) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guide_names_every_metric() {
        let guide = include_str!("../../../../docs/guides/moves.md");
        let all = [
            MOVES,
            OPEN,
            PHASES,
            LAG,
            WAYS_BACK,
            PAUSE,
            HELD,
            NARROWED,
            ACT,
            TAKEN_BACK,
            ROWS,
            BYTES,
            STREAMED,
            FALLEN_BACK,
            RESTED,
        ];
        for metric in all {
            assert!(guide.contains(&format!("| `{metric}` |")), "{metric}");
        }
        let named = guide.lines().filter(|line| line.starts_with("| `insula_move")).count();
        assert_eq!(named, all.len(), "the guide names metrics that are not there");
    }
}
