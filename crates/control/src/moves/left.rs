//! What a move has left at an end whose server was away when it ended: noted
//! with the move, refused as a place to go to, named by the doctor, and removed
//! when the server is back.

use std::collections::BTreeSet;

use insula_catalog::{MoveRecord, TenantRecord};
use insula_domain::{ClusterName, MoveEnd, OperationId, TenantStatus};
use insula_problem::{Code, Problem};
use insula_tenant_cluster::moving::{self, Place, Seat};
use insula_tenant_cluster::{database_exists, drop_roles};
use insula_workflow::StepError;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::ends::place;
use super::remove;
use super::seats::seat;
use crate::Control;
use crate::workflows::moving::{MoveInput, OfMove};
use crate::workflows::{clear, retried};

/// How many moves are looked at at a time.
const AT_ONCE: i64 = 100;

/// What was left, as the move's manifest has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Left {
    /// `source` or `target`.
    pub end: String,
    /// On which cluster.
    pub cluster: ClusterName,
    /// Why it could not be removed.
    pub because: String,
}

/// What a move has left.
#[must_use]
pub fn of(record: &MoveRecord) -> Option<Left> {
    let left = record.manifest.as_ref()?.get("left")?;
    Left::deserialize(left).ok()
}

/// The end of a move where it is.
#[must_use]
pub fn end_of<'a>(record: &'a MoveRecord, left: &Left) -> &'a MoveEnd {
    if left.end == "source" { &record.source } else { &record.target }
}

/// Notes that all that is at an end stays there for now.
///
/// # Errors
/// Where the catalog is away.
pub async fn note(
    control: &Control,
    record: &MoveRecord,
    end: &MoveEnd,
    problem: &Problem,
) -> Result<(), Problem> {
    let Some(cluster) = end.cluster.clone() else { return Ok(()) };
    tracing::warn!(tenant_move = %record.id, %cluster, cause = problem.chain(), "a move leaves something behind");
    let end = if *end == record.source { "source" } else { "target" };
    let left = Left { end: end.to_owned(), cluster, because: problem.detail().to_owned() };
    let mut client = control.catalog.client().await?;
    let change = client.change(control.worker()).await?;
    change.set_move_manifest(record.id, &json!({"left": left})).await?;
    let detail = json!({"move": record.id, "left": left});
    change.audit("tenant.move.left", Some(record.tenant), &record.tenant.to_string(), &detail).await?;
    change.commit().await
}

/// Begins to remove what was left where the server is back. The runs are the
/// tenants' own: nothing else is done to them meanwhile.
///
/// # Errors
/// Where the catalog is away.
pub async fn clear_all(control: &Control) -> Result<(), Problem> {
    let records = control.catalog.client().await?.moves_with_left(AT_ONCE).await?;
    let mut away = BTreeSet::new();
    for record in records {
        let Some(left) = of(&record) else { continue };
        if away.contains(&left.cluster) {
            continue;
        }
        let begun = async {
            let access = control.clusters.access(&left.cluster).await?;
            moving::is_there(&access).await?;
            begin(control, &record).await
        };
        match begun.await {
            Ok(()) => {}
            Err(problem) if problem.code() == Code::TenantBusy => {}
            Err(problem) => {
                tracing::debug!(cluster = %left.cluster, cause = problem.chain(), "what was left there stays");
                away.insert(left.cluster);
            }
        }
    }
    Ok(())
}

async fn begin(control: &Control, record: &MoveRecord) -> Result<(), Problem> {
    let id = OperationId::generate(control.clock.as_ref(), control.entropy.as_ref());
    let mut client = control.catalog.client().await?;
    let change = client.change(control.worker()).await?;
    let input = MoveInput { tenant: record.tenant, tenant_move: record.id };
    let run = clear::kind().new_run(id, record.tenant.to_string(), &input, change.at());
    control.operations.start(&change, run).await?;
    let detail = json!({"move": record.id, "operation": id});
    change.audit("tenant.move.clear", Some(record.tenant), &record.tenant.to_string(), &detail).await?;
    change.commit().await?;
    control.operations.wake();
    Ok(())
}

/// What there is of the tenant where it was once; nothing where it never came,
/// or the database has gone already.
///
/// # Errors
/// Where the server is away.
pub async fn count(control: &Control, record: &MoveRecord, left: &Left) -> Result<Value, Problem> {
    let end = end_of(record, left);
    let here = place(control, record, end).await?;
    let is_there = database_exists(&*here.access.maintenance().await?, &here.placement.database).await?;
    if record.committed_at.is_none() || !is_there {
        return Ok(json!({}));
    }
    remove::manifest(control, record, end).await
}

/// Removes what was left; what that was. The tenant is not there: no move goes
/// to a cluster where it has something left. It is asked from the seat, in a run
/// of the tenant's own, beside which no other goes on.
///
/// # Errors
/// Where a server is away, the tenant is there after all, or another worker has
/// the run.
pub async fn remove(
    run: &OfMove,
    tenant: &TenantRecord,
    record: &MoveRecord,
    left: &Left,
) -> Result<Value, StepError> {
    let control = run.deps();
    let end = end_of(record, left);
    let here = place(control, record, end).await.map_err(retried)?;
    let seat = seat(run, &here).await?;
    let ends = remove_from(control, &seat, &here, tenant, record, end).await.map_err(retried)?;
    // The tenant may have come to the region since, to another cluster of it.
    let at_home = tenant.status != TenantStatus::Deleted && tenant.region == end.region;
    if !at_home && !ends.iter().any(|other| other.region == end.region) {
        run.heartbeat().await?;
        let region = control.regions.of(&end.region).map_err(retried)?;
        region.leave_home(tenant.id, remove::leaving(record)).await.map_err(retried)?;
    }
    Ok(json!({"isolation": end.isolation, "cluster": end.cluster, "region": end.region}))
}

/// Removes what is on the server; the ends of the tenant's open move.
async fn remove_from(
    control: &Control,
    seat: &Seat,
    here: &Place,
    tenant: &TenantRecord,
    record: &MoveRecord,
    end: &MoveEnd,
) -> Result<Vec<MoveEnd>, Problem> {
    let open = control.catalog.client().await?.open_move(tenant.id).await?;
    let ends: Vec<MoveEnd> = open.into_iter().flat_map(|open| [open.source, open.target]).collect();
    let served_from = tenant.placement.as_ref().map(|placement| &placement.cluster);
    if is_in_use(end, served_from, &ends) {
        return Err(Problem::internal("a tenant is where a move has left something of it"));
    }
    moving::remove_streams_at((seat, here), record.id.as_uuid()).await?;
    // A try at the cutover may have let it in before the server went away.
    if moving::is_open(seat, here).await? {
        moving::close(seat, here).await?;
    }
    remove::space(seat, tenant, end).await?;
    drop_roles(seat, tenant.id).await?;
    Ok(ends)
}

/// Whether the tenant is on the cluster of an end, or may be soon.
fn is_in_use(end: &MoveEnd, served_from: Option<&ClusterName>, of_open_move: &[MoveEnd]) -> bool {
    let here = end.cluster.as_ref();
    served_from == here || of_open_move.iter().any(|other| other.cluster.as_ref() == here)
}

#[cfg(test)]
mod tests {
    use insula_domain::{Epoch, Isolation, Placement, TenantId};
    use uuid::Uuid;

    use super::*;

    fn end(cluster: &str, isolation: Isolation) -> MoveEnd {
        let (database, schema) = Placement::names(TenantId::from(Uuid::from_u128(1)), isolation);
        let (tier, region) = ("free".parse().unwrap(), "r".parse().unwrap());
        MoveEnd { tier, region, cluster: cluster.parse().ok(), isolation, database, schema, epoch: Epoch(2) }
    }

    #[test]
    fn nothing_is_removed_where_the_tenant_is_or_may_be_soon() {
        let left = end("gone", Isolation::Pool);
        let (gone, here): (ClusterName, ClusterName) = ("gone".parse().unwrap(), "here".parse().unwrap());
        assert!(!is_in_use(&left, None, &[]));
        assert!(!is_in_use(&left, Some(&here), &[end("here", Isolation::Pool)]));
        assert!(is_in_use(&left, Some(&gone), &[]));
        assert!(is_in_use(&left, Some(&here), &[end("gone", Isolation::Schema)]));
    }

    #[test]
    fn what_was_left_is_read_as_it_is_written() {
        let left =
            Left { end: "target".into(), cluster: "gone".parse().unwrap(), because: "It was away.".into() };
        let written = serde_json::to_value(&left).unwrap();
        assert_eq!(written["cluster"], "gone");
        assert_eq!(Left::deserialize(&written).unwrap(), left);
    }
}
