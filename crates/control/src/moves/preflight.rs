//! What would stop a move or slow it down.

use insula_api::{MoveDisk, MoveObstacle};
use insula_catalog::TenantRecord;
use insula_domain::{ClusterName, Isolation, MoveEnd, in_the_way};
use insula_problem::{Code, Problem};
use insula_tenant_cluster::moving::{self, Place, ReplicationRoom};
use insula_tenant_cluster::{ClusterAccess, disk_room, own_objects as objects_of};

use super::disk;
use crate::{Control, own_objects};

/// What was found.
#[derive(Debug, Default)]
pub struct Look {
    /// What there is to move, and what of the server is in the way.
    pub inventory: moving::Inventory,
    /// All that is in the way.
    pub obstacles: Vec<MoveObstacle>,
    /// The room on the disk that it goes to.
    pub disk: Option<MoveDisk>,
    /// The clusters that could not be looked at, each with why.
    pub away: Vec<(ClusterName, Problem)>,
}

impl std::ops::Deref for Look {
    type Target = moving::Inventory;

    fn deref(&self) -> &moving::Inventory {
        &self.inventory
    }
}

/// Where a tenant is to go: not yet to a cluster while none is chosen, and later
/// to one that is made for it.
#[derive(Debug, Clone, Copy)]
pub struct To<'a> {
    /// The isolation model.
    pub isolation: Isolation,
    /// The cluster.
    pub cluster: Option<&'a ClusterName>,
}

impl<'a> From<&'a MoveEnd> for To<'a> {
    fn from(end: &'a MoveEnd) -> Self {
        Self { isolation: end.isolation, cluster: end.cluster.as_ref() }
    }
}

/// Looks at the tenant where it is, and at the room on both servers; where one of
/// them is away, at the other.
///
/// # Errors
/// Where the catalog is away.
pub async fn look(control: &Control, tenant: &TenantRecord, to: To<'_>) -> Result<Look, Problem> {
    let placement =
        tenant.placement.clone().ok_or_else(|| Problem::internal("a tenant without a placement"))?;
    let here = placement.cluster.clone();
    let place = Place { access: control.clusters.access(&here).await?, placement, tenant: tenant.id };
    let mut look = Look::default();
    let looked = at_source(control, tenant, &place, to, &mut look).await;
    look.unless_away(&here, looked)?;
    if let Some(there) = to.cluster {
        let access = control.clusters.access(there).await?;
        let looked = at_target(&access, *there == here, &mut look).await;
        look.unless_away(there, looked)?;
    }
    Ok(look)
}

impl Look {
    /// Notes that a server is away; any other problem is one.
    fn unless_away(&mut self, cluster: &ClusterName, looked: Result<(), Problem>) -> Result<(), Problem> {
        let Err(problem) = looked else { return Ok(()) };
        if !matches!(problem.code(), Code::PlacementUnavailable | Code::Unavailable) {
            return Err(problem);
        }
        if self.away.iter().all(|(known, _)| known != cluster) {
            self.away.push((cluster.clone(), problem));
        }
        Ok(())
    }
}

async fn at_source(
    control: &Control,
    tenant: &TenantRecord,
    place: &Place,
    to: To<'_>,
    look: &mut Look,
) -> Result<(), Problem> {
    look.inventory = moving::survey(place, to.isolation).await?;
    look.obstacles.extend(look.inventory.obstacles.iter().map(|found| MoveObstacle {
        stops: found.blocks,
        kind: found.kind.clone(),
        object: found.object.clone(),
        detail: found.detail.clone(),
    }));
    let needs = if to.cluster == Some(place.access.name()) { OF_BOTH } else { OF_SOURCE };
    let room = moving::replication_room(&place.access).await?;
    let here = place.access.name();
    look.obstacles.extend(lacking(here, &room, needs));
    look.obstacles.extend(forgotten(here, &room, look.inventory.bytes));
    look.obstacles.extend(own(control, tenant, to.isolation).await?);
    Ok(())
}

async fn at_target(access: &ClusterAccess, is_source: bool, look: &mut Look) -> Result<(), Problem> {
    if !is_source {
        let room = moving::replication_room(access).await?;
        look.obstacles.extend(lacking(access.name(), &room, OF_TARGET));
    }
    let needed = u64::try_from(look.inventory.bytes).unwrap_or(0);
    let (disk, short) = disk::judge(access.name(), disk_room(access).await?, needed);
    look.obstacles.extend(short);
    look.disk = Some(disk);
    Ok(())
}

/// Looks, and refuses where something stops the move.
///
/// # Errors
/// `move_blocked` with all that stops it; or where a cluster is away.
pub async fn check(control: &Control, tenant: &TenantRecord, to: To<'_>) -> Result<Look, Problem> {
    let mut look = look(control, tenant, to).await?;
    if let Some((_, problem)) = look.away.pop() {
        return Err(problem);
    }
    let stops: Vec<_> = look.obstacles.iter().filter(|obstacle| obstacle.stops).collect();
    let Some(first) = stops.first() else { return Ok(look) };
    let more = match stops.len() - 1 {
        0 => String::new(),
        more => format!(" And {more} more: insula tenant move {} --dry-run.", tenant.slug),
    };
    let detail =
        format!("The move of {} is stopped by {}. {}{more}", tenant.slug, first.object, first.detail);
    Err(Problem::new(Code::MoveBlocked, detail))
}

/// What a move needs of a server while it goes on.
#[derive(Debug, Clone, Copy)]
struct Needs {
    slots: i64,
    /// Streams that end there, with their origins.
    streams: i64,
    senders: i64,
}

/// The stream there and one more to compare, each with its sender, and the origin
/// of the way back.
const OF_SOURCE: Needs = Needs { slots: 2, streams: 1, senders: 2 };

/// The way back, and the origin of the stream there.
const OF_TARGET: Needs = Needs { slots: 1, streams: 1, senders: 1 };

/// Where both are one: it is compared before the way back is made.
const OF_BOTH: Needs = Needs { slots: 2, streams: 2, senders: 2 };

fn lacking(cluster: &ClusterName, room: &ReplicationRoom, needs: Needs) -> Option<MoveObstacle> {
    lack(room, needs).map(|rule| MoveObstacle {
        stops: true,
        kind: "no_replication_room".to_owned(),
        object: cluster.to_string(),
        detail: format!("On the cluster {cluster}, {rule}: other moves may be under way."),
    })
}

/// A server that keeps less of its log than there is to copy may give the slot up
/// while it is copied.
fn forgotten(cluster: &ClusterName, room: &ReplicationRoom, bytes: i64) -> Option<MoveObstacle> {
    let kept = room.slot_log_bytes_max.filter(|kept| *kept < bytes)?;
    Some(MoveObstacle {
        stops: false,
        kind: "log_not_kept".to_owned(),
        object: cluster.to_string(),
        detail: format!(
            "The cluster {cluster} keeps {kept} bytes of its log for a stream (max_slot_wal_keep_size), and there are \
             {bytes} bytes to copy. Where more than that is written meanwhile, by whatever tenant, the move is undone."
        ),
    })
}

/// Which setting of a server leaves no room.
fn lack(room: &ReplicationRoom, needs: Needs) -> Option<String> {
    if room.wal_level != "logical" {
        return Some("wal_level must be logical".to_owned());
    }
    let counted = [
        (room.free_slots, needs.slots, "max_replication_slots", "slots"),
        (room.free_origins, needs.streams * i64::from(room.origins_each), room.origins_setting, "origins"),
        (room.free_senders, needs.senders, "max_wal_senders", "senders"),
    ];
    let short = counted.into_iter().find(|(free, needed, ..)| free < needed);
    short.map(|(_, needed, setting, what)| format!("{setting} must leave {needed} {what} free"))
}

/// What the tenant has made itself: it is not part of the app schema.
async fn own(
    control: &Control,
    tenant: &TenantRecord,
    target: Isolation,
) -> Result<Vec<MoveObstacle>, Problem> {
    let Some((space, client)) = own_objects::space(control, tenant).await? else { return Ok(Vec::new()) };
    let made = objects_of(&client, &space.own).await?.objects;
    let without_place = in_the_way(&made, target).len();
    let obstacle = |(index, object): (usize, &insula_domain::OwnObject)| MoveObstacle {
        stops: true,
        kind: "own_object".to_owned(),
        object: format!("{}.{}", space.own, object.name),
        detail: if index < without_place {
            format!(
                "The {} {} is the tenant's own, and where tenants share tables nobody has any: drop it first.",
                object.kind, object.name
            )
        } else {
            format!(
                "The {} {} is the tenant's own, and only the app schema's tables are moved: drop it, and make it \
                 again afterwards.",
                object.kind, object.name
            )
        },
    };
    Ok(made.iter().enumerate().map(obstacle).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room(slots: i64, origins: i64, senders: i64) -> ReplicationRoom {
        ReplicationRoom {
            wal_level: "logical".to_owned(),
            free_slots: slots,
            free_origins: origins,
            origins_each: 1,
            origins_setting: "max_replication_slots",
            free_senders: senders,
            slot_log_bytes_max: None,
        }
    }

    #[test]
    fn a_server_has_to_have_room_for_what_is_made_there() {
        for (needs, enough) in
            [(OF_SOURCE, room(2, 1, 2)), (OF_TARGET, room(1, 1, 1)), (OF_BOTH, room(2, 2, 2))]
        {
            assert_eq!(lack(&enough, needs), None, "{needs:?}");
            let without = [
                ReplicationRoom { free_slots: enough.free_slots - 1, ..enough.clone() },
                ReplicationRoom { free_origins: enough.free_origins - 1, ..enough.clone() },
                ReplicationRoom { free_senders: enough.free_senders - 1, ..enough.clone() },
                ReplicationRoom { wal_level: "replica".to_owned(), ..enough },
            ];
            let named = ["max_replication_slots", "max_replication_slots", "max_wal_senders", "wal_level"];
            for (without, named) in without.iter().zip(named) {
                assert!(lack(without, needs).is_some_and(|rule| rule.starts_with(named)), "{without:?}");
            }
        }
    }

    #[test]
    fn a_server_that_needs_more_origins_for_a_stream_has_to_have_room_for_them() {
        let of_18 = |origins| ReplicationRoom {
            origins_each: 3,
            origins_setting: "max_active_replication_origins",
            ..room(9, origins, 9)
        };
        for (needs, enough) in [(OF_SOURCE, 3), (OF_TARGET, 3), (OF_BOTH, 6)] {
            assert_eq!(lack(&of_18(enough), needs), None, "{needs:?}");
            let rule = lack(&of_18(enough - 1), needs).unwrap();
            assert_eq!(rule, format!("max_active_replication_origins must leave {enough} origins free"));
        }
    }

    #[test]
    fn a_log_that_is_not_kept_for_as_much_as_there_is_to_copy_is_a_warning() {
        let cluster = "us-a".parse().unwrap();
        let keeps = |bytes| ReplicationRoom { slot_log_bytes_max: bytes, ..room(9, 9, 9) };
        assert!(forgotten(&cluster, &keeps(None), i64::MAX).is_none(), "no limit");
        assert!(forgotten(&cluster, &keeps(Some(1_000)), 1_000).is_none());
        let warning = forgotten(&cluster, &keeps(Some(999)), 1_000).unwrap();
        assert!(!warning.stops && warning.detail.contains("999 bytes"), "{warning:?}");
    }
}
