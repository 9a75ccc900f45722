//! What a move that has ended has left on servers, and streams that keep too
//! much of a server's log: a slot that nobody reads fills the disk.

use std::collections::BTreeMap;

use insula_catalog::MoveRecord;
use insula_domain::{MoveStatus, OperationId};
use insula_problem::{Code, Problem};
use insula_tenant_cluster::ClusterAccess;
use insula_tenant_cluster::moving::{self, ReplicationObjects, StreamName, StreamSlot, Way};
use serde_json::json;

use super::way_back;
use crate::Control;

/// Bytes of its log that a server may keep for a stream of a move. Where more is
/// found, a move that is under way is cancelled, and one that is done cannot be taken
/// back any more.
const RETAINED_MAX: i64 = 16 << 30;

/// Looks at every cluster once; a cluster that is away is looked at the next time.
///
/// # Errors
/// Where the catalog is away.
pub async fn reap(control: &Control) -> Result<(), Problem> {
    let clusters = control.catalog.client().await?.clusters().await?;
    for cluster in clusters {
        let looked = async {
            let access = control.clusters.access_of(&cluster)?;
            // The servers first: a move is in the catalog before it is on one.
            let objects = moving::replication_objects(&access).await?;
            if objects == ReplicationObjects::default() {
                return Ok(());
            }
            let open = open_moves(control).await?;
            remove_orphans(&access, &objects, &open).await?;
            give_up_what_fills_the_disk(control, &access, &objects, &open).await
        };
        if let Err(problem) = looked.await {
            tracing::info!(cluster = %cluster.name, cause = problem.chain(), "streams of moves were not looked at");
        }
    }
    Ok(())
}

/// The moves that have not ended.
pub(crate) async fn open_moves(control: &Control) -> Result<BTreeMap<OperationId, MoveRecord>, Problem> {
    let open = control.catalog.client().await?.open_moves().await?;
    Ok(open.into_iter().map(|record| (record.id, record)).collect())
}

/// What is there of a stream whose move has ended, or never was.
pub(crate) fn orphans(
    objects: &ReplicationObjects,
    open: &BTreeMap<OperationId, MoveRecord>,
) -> Vec<(&'static str, StreamName)> {
    let is_orphan = |name: &StreamName| !open.contains_key(&OperationId::from(name.move_id));
    let slots = objects.slots.iter().map(|slot| ("replication slot", slot.stream));
    let publications = objects.publications.iter().map(|(_, name)| ("publication", *name));
    let origins = objects.origins.iter().map(|(name, _)| ("replication origin", *name));
    slots.chain(publications).chain(origins).filter(|(_, name)| is_orphan(name)).collect()
}

async fn remove_orphans(
    access: &ClusterAccess,
    objects: &ReplicationObjects,
    open: &BTreeMap<OperationId, MoveRecord>,
) -> Result<(), Problem> {
    for (kind, name) in orphans(objects, open) {
        tracing::warn!(cluster = %access.name(), kind, %name, "removing what a move has left");
        // The slot last: in a database of a tenant's own, a publication is found by it alone.
        for (database, _) in objects.publications.iter().filter(|(_, of)| *of == name) {
            moving::drop_publication(access, database, name).await?;
        }
        moving::drop_slot(access, name).await?;
        moving::drop_origin(access, name).await?;
    }
    Ok(())
}

async fn give_up_what_fills_the_disk(
    control: &Control,
    access: &ClusterAccess,
    objects: &ReplicationObjects,
    open: &BTreeMap<OperationId, MoveRecord>,
) -> Result<(), Problem> {
    for slot in &objects.slots {
        let id = OperationId::from(slot.stream.move_id);
        let Some(record) = open.get(&id) else { continue };
        let kept =
            format!("{} kept more than {} GiB of its log for the move", access.name(), RETAINED_MAX >> 30);
        match judge(slot, record) {
            Judgement::Stays => {}
            Judgement::Goes => moving::drop_slot(access, slot.stream).await?,
            Judgement::EndsTheMove => {
                give_up(control, id, &format!("{kept}: it is cancelled."), true).await?;
            }
            Judgement::EndsTheWayBack => {
                moving::drop_slot(access, slot.stream).await?;
                give_up(control, id, &format!("{kept}: there is no way back. Complete it."), false).await?;
            }
        }
    }
    Ok(())
}

/// What becomes of a slot of a move that is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Judgement {
    Stays,
    /// Nobody will read it.
    Goes,
    EndsTheMove,
    EndsTheWayBack,
}

fn judge(slot: &StreamSlot, record: &MoveRecord) -> Judgement {
    let is_too_much = slot.is_lost || slot.retained_bytes.is_some_and(|bytes| bytes > RETAINED_MAX);
    match (record.status, slot.stream.way) {
        // It ends with a session that waits for nothing.
        _ if slot.temporary => Judgement::Stays,
        // The server was away when the way was closed, or right after the cutover.
        (MoveStatus::Moved, Way::Back) if way_back::closed(record).is_some() => Judgement::Goes,
        (MoveStatus::Moved, Way::Forward) => Judgement::Goes,
        (MoveStatus::Moved, Way::Back) if is_too_much => Judgement::EndsTheWayBack,
        (MoveStatus::Running, _) if is_too_much => Judgement::EndsTheMove,
        // What other moves are at ends by itself, and the slot with it.
        _ => Judgement::Stays,
    }
}

/// Notes why, and has a move end that has not come to its cutover.
async fn give_up(control: &Control, id: OperationId, why: &str, cancel: bool) -> Result<(), Problem> {
    let mut client = control.catalog.client().await?;
    let change = client.change(control.worker()).await?;
    let Some(record) = change.lock_move(id).await? else { return Ok(()) };
    if cancel && record.status == MoveStatus::Running {
        change.cancel_move(id).await?;
    }
    change.set_move_error(id, Code::MoveBlocked.as_str(), why).await?;
    let detail = json!({"move": id, "cancelled": cancel});
    change.audit("tenant.move.given_up", Some(record.tenant), &record.tenant.to_string(), &detail).await?;
    change.commit().await
}

#[cfg(test)]
mod tests {
    use super::way_back::tests::moved;
    use super::*;

    fn slot(way: Way, retained_bytes: Option<i64>) -> StreamSlot {
        let stream = StreamName::new(way, moved().id.as_uuid());
        StreamSlot {
            stream,
            name: stream.to_string(),
            database: "d".to_owned(),
            temporary: false,
            active_pid: None,
            confirmed: None,
            retained_bytes,
            is_lost: false,
        }
    }

    #[test]
    fn a_slot_that_keeps_too_much_ends_what_it_is_for_and_one_that_is_being_made_nothing() {
        let of = |status| MoveRecord { status, ..moved() };
        let (little, much) = (Some(RETAINED_MAX), Some(RETAINED_MAX + 1));
        let lost = |way| StreamSlot { is_lost: true, ..slot(way, None) };
        for (slot, status, expected) in [
            (slot(Way::Forward, little), MoveStatus::Running, Judgement::Stays),
            (slot(Way::Forward, None), MoveStatus::Running, Judgement::Stays),
            (slot(Way::Forward, much), MoveStatus::Running, Judgement::EndsTheMove),
            (slot(Way::Back, much), MoveStatus::Running, Judgement::EndsTheMove),
            (lost(Way::Forward), MoveStatus::Running, Judgement::EndsTheMove),
            (StreamSlot { temporary: true, ..lost(Way::Forward) }, MoveStatus::Running, Judgement::Stays),
            (slot(Way::Back, little), MoveStatus::Moved, Judgement::Stays),
            (slot(Way::Back, much), MoveStatus::Moved, Judgement::EndsTheWayBack),
            (lost(Way::Back), MoveStatus::Moved, Judgement::EndsTheWayBack),
            // What was read up to the cutover says nothing of the way back.
            (slot(Way::Forward, much), MoveStatus::Moved, Judgement::Goes),
            (slot(Way::Forward, little), MoveStatus::Moved, Judgement::Goes),
            (slot(Way::Back, much), MoveStatus::RollingBack, Judgement::Stays),
        ] {
            assert_eq!(judge(&slot, &of(status)), expected, "{slot:?} {status:?}");
        }
        let closed = MoveRecord { error: Some((Code::MoveDiverged.as_str().into(), "x".into())), ..moved() };
        assert_eq!(judge(&slot(Way::Back, little), &closed), Judgement::Goes);
    }
}
