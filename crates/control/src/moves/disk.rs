//! Whether the disk of the server that a tenant would go to has room for it, as
//! far as that can be known.

use insula_api::{MoveDisk, MoveObstacle};
use insula_domain::ClusterName;
use insula_tenant_cluster::DiskRoom;

/// What is said of a disk that needs so many more bytes, and what of that is in
/// the way.
pub fn judge(cluster: &ClusterName, room: DiskRoom, needed: u64) -> (MoveDisk, Option<MoveObstacle>) {
    let see = format!("See that {needed} bytes are free there, and as much again for its log.");
    let (free_bytes, detail) = match room {
        DiskRoom::Free(free) => {
            (Some(free), format!("{free} bytes are free, and about {needed} are needed."))
        }
        DiskRoom::Elsewhere => {
            let why = "It is not known: PostgreSQL does not say how much is free on its disk, and the server is on \
                       another machine.";
            (None, format!("{why} {see}"))
        }
        DiskRoom::Unreadable => {
            let why = "It is not known: PostgreSQL does not say how much is free on its disk, and this process may \
                       not look into its data folder.";
            (None, format!("{why} {see}"))
        }
    };
    let short = free_bytes.and_then(|free| short(cluster, free, needed));
    (MoveDisk { cluster: cluster.clone(), needed_bytes: needed, free_bytes, detail }, short)
}

/// Less than the rows and indexes take stops a move. What is copied is in the log,
/// too, until that is recycled.
fn short(cluster: &ClusterName, free: u64, needed: u64) -> Option<MoveObstacle> {
    let with_log = needed.saturating_mul(2);
    if free >= with_log {
        return None;
    }
    let stops = free < needed;
    let what = if stops { "does not hold it" } else { "holds it, and perhaps not the log of the copy" };
    Some(MoveObstacle {
        stops,
        kind: if stops { "disk_full" } else { "disk_tight" }.to_owned(),
        object: cluster.to_string(),
        detail: format!(
            "The disk of the cluster {cluster} has {free} bytes free and {what}: the tenant takes about {needed}."
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_that_is_short_stops_or_warns_and_one_that_is_not_known_says_so() {
        let cluster: ClusterName = "us-b".parse().unwrap();
        let judged = |room| judge(&cluster, room, 1_000);
        for (free, expected) in [
            (2_000, None),
            (1_999, Some(("disk_tight", false))),
            (1_000, Some(("disk_tight", false))),
            (999, Some(("disk_full", true))),
            (0, Some(("disk_full", true))),
        ] {
            let (disk, short) = judged(DiskRoom::Free(free));
            assert_eq!(disk.free_bytes, Some(free));
            assert_eq!(short.as_ref().map(|short| (short.kind.as_str(), short.stops)), expected, "{free}");
        }
        for room in [DiskRoom::Elsewhere, DiskRoom::Unreadable] {
            let (disk, short) = judged(room);
            assert_eq!((disk.free_bytes, short), (None, None));
            assert!(disk.detail.contains("not known") && disk.detail.contains("1000 bytes"), "{disk:?}");
        }
        // A tenant without rows goes anywhere.
        assert_eq!(judge(&cluster, DiskRoom::Free(0), 0).1, None);
    }
}
