//! Whether a move that is done can be taken back: what closes the way for good,
//! and whether the stream that keeps it open runs.

use insula_catalog::MoveRecord;
use insula_domain::{MoveStatus, SchemaVersion, WayBack};
use insula_problem::{Code, Problem};
use time::OffsetDateTime;

/// The errors of a move behind which there is no way back.
pub const CLOSED_BY: [Code; 4] =
    [Code::SchemaBehind, Code::SchemaChanged, Code::MoveDiverged, Code::MoveBlocked];

/// Why the move cannot be taken back any more, as far as that is noted.
#[must_use]
pub fn closed(record: &MoveRecord) -> Option<Problem> {
    let (noted, detail) = record.error.as_ref()?;
    let code = CLOSED_BY.into_iter().find(|code| code.as_str() == noted)?;
    Some(Problem::new(code, detail.clone()))
}

/// Why it cannot with this version of the app schema: one that came since has
/// changed the target, and what it has added there is not in the stream back.
#[must_use]
pub fn closed_by_version(record: &MoveRecord, newest: SchemaVersion) -> Option<Problem> {
    let of_move = record.schema_version;
    (newest != of_move).then(|| {
        let detail = format!(
            "Version {newest} of the app schema was published since the move, which had {of_move}: there is no way \
             back. Complete the move, and move the tenant again."
        );
        Problem::new(Code::SchemaBehind, detail)
    })
}

/// How it stands with the way back; none where there is none to be open: the
/// tenant is not at the target, or the move has gone on.
#[must_use]
pub fn of(record: &MoveRecord, now: OffsetDateTime) -> Option<WayBack> {
    if record.status != MoveStatus::Moved {
        return None;
    }
    let is_kept = record.keeper_until.is_some_and(|until| until > now);
    Some(match (closed(record), &record.error) {
        (Some(_), _) => WayBack::Closed,
        (None, None) if is_kept => WayBack::Kept,
        (None, _) => WayBack::Waiting,
    })
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::Duration;

    use insula_domain::{
        Epoch, Isolation, MoveEnd, MoveProgress, MoveTerms, OperationId, Placement, TenantId,
    };
    use uuid::Uuid;

    use super::*;

    const NOW: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;

    pub fn moved() -> MoveRecord {
        let (id, tenant) = (OperationId::from(Uuid::from_u128(1)), TenantId::from(Uuid::from_u128(2)));
        let end = |isolation| {
            let (database, schema) = Placement::names(tenant, isolation);
            let (tier, region) = ("free".parse().unwrap(), "r".parse().unwrap());
            MoveEnd { tier, region, cluster: None, isolation, database, schema, epoch: Epoch(1) }
        };
        MoveRecord {
            id,
            tenant,
            slug: None,
            status: MoveStatus::Moved,
            operation: id,
            source: end(Isolation::Pool),
            target: end(Isolation::Schema),
            schema_version: SchemaVersion(3),
            terms: MoveTerms::default(),
            progress: MoveProgress::default(),
            cancel: false,
            error: None,
            manifest: None,
            created_at: NOW,
            committed_at: Some(NOW),
            window_ends_at: None,
            ended_at: None,
            keeper_until: Some(NOW + Duration::from_secs(1)),
        }
    }

    #[test]
    fn a_way_is_kept_only_while_a_keeper_says_so_and_nothing_is_wrong() {
        let erring = |code: Code| MoveRecord { error: Some((code.as_str().into(), "x".into())), ..moved() };
        for (record, expected) in [
            (moved(), Some(WayBack::Kept)),
            (MoveRecord { keeper_until: Some(NOW), ..moved() }, Some(WayBack::Waiting)),
            (MoveRecord { keeper_until: None, ..moved() }, Some(WayBack::Waiting)),
            (erring(Code::PlacementUnavailable), Some(WayBack::Waiting)),
            (erring(Code::SchemaBehind), Some(WayBack::Closed)),
            (MoveRecord { status: MoveStatus::Running, ..moved() }, None),
            (MoveRecord { status: MoveStatus::RollingBack, ..moved() }, None),
        ] {
            assert_eq!(of(&record, NOW), expected, "{record:?}");
        }
    }

    #[test]
    fn another_version_closes_the_way() {
        assert!(closed_by_version(&moved(), SchemaVersion(3)).is_none());
        let problem = closed_by_version(&moved(), SchemaVersion(4)).unwrap();
        assert_eq!(problem.code(), Code::SchemaBehind);
    }
}
