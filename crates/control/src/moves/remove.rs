//! Removing one end of a move: the target of one that did not come through, or
//! the source of one that is completed. May be repeated.

use insula_catalog::{MoveRecord, TenantRecord};
use insula_domain::{Isolation, MoveEnd};
use insula_problem::Problem;
use insula_region_store::Leaving;
use insula_tenant_cluster::drop_roles;
use insula_tenant_cluster::moving::{self, Seat};
use insula_workflow::StepError;
use serde_json::{Value, json};

use super::ends::{as_if_at, place};
use super::seats::seat;
use crate::workflows::moving::OfMove;
use crate::workflows::retried;
use crate::{Control, dedicated, placements};

/// Ends and removes what the streams of a move have on the server of an end.
///
/// # Errors
/// Where the cluster is away.
pub async fn streams_at(control: &Control, record: &MoveRecord, end: &MoveEnd) -> Result<(), Problem> {
    moving::remove_streams_at(&place(control, record, end).await?, record.id.as_uuid()).await
}

/// What there is of the tenant at an end: rows by table.
///
/// # Errors
/// Where the cluster is away.
pub async fn manifest(control: &Control, record: &MoveRecord, end: &MoveEnd) -> Result<Value, Problem> {
    let counted = moving::manifest(&place(control, record, end).await?).await?;
    Ok(json!({"rows": counted.rows, "tables": counted.tables}))
}

/// Removes the tenant's rows, schema or database at an end, and nothing else. A
/// worker that was suspended in the midst of something there is not waited for.
///
/// # Errors
/// Where the cluster is away, or the seat has been taken.
pub async fn space(seat: &Seat, tenant: &TenantRecord, end: &MoveEnd) -> Result<(), Problem> {
    let there = as_if_at(tenant, end);
    if let Some(placement) = &there.placement {
        seat.end_at(&placement.database).await?;
    }
    placements::remove_rows_through(seat, &there).await.map(drop)
}

/// Removes all of the tenant at an end, while it is at the other; what that was.
///
/// # Errors
/// Where the cluster or the catalog is away, or another worker has the run.
pub async fn end(
    run: &OfMove,
    tenant: &TenantRecord,
    record: &MoveRecord,
    end: &MoveEnd,
    other: &MoveEnd,
) -> Result<Value, StepError> {
    let control = run.deps();
    let mut removed = json!({"isolation": end.isolation, "cluster": end.cluster, "region": end.region});
    if end.isolation == Isolation::Cluster {
        // No other server of the tenant's is ever called so.
        run.heartbeat().await?;
        dedicated::remove_end(control, tenant, record, end).await.map_err(retried)?;
    } else if end.cluster.is_some() {
        let place = place(control, record, end).await.map_err(retried)?;
        match end.isolation {
            Isolation::Pool => {}
            Isolation::Schema => removed["schema"] = json!(place.placement.schema),
            Isolation::Database | Isolation::Cluster => removed["database"] = json!(place.placement.database),
        }
        let seat = seat(run, &place).await?;
        space(&seat, tenant, end).await.map_err(retried)?;
        if end.cluster == other.cluster {
            moving::forget_settings(&seat, &place).await.map_err(retried)?;
        } else {
            drop_roles(&seat, tenant.id).await.map_err(retried)?;
            removed["roles"] = json!(true);
        }
    }
    run.heartbeat().await?;
    home(control, record, end, other).await.map_err(retried)?;
    Ok(removed)
}

/// Removes what the region of an end keeps of the tenant, where the other end
/// is in another region.
///
/// # Errors
/// Where the region's store is away.
pub async fn home(
    control: &Control,
    record: &MoveRecord,
    end: &MoveEnd,
    other: &MoveEnd,
) -> Result<(), Problem> {
    if end.region == other.region {
        return Ok(());
    }
    control.regions.of(&end.region)?.leave_home(record.tenant, leaving(record)).await
}

/// What the region of an end is left by: a worker that wakes too late removes
/// nothing of what a later move has brought there.
pub fn leaving(record: &MoveRecord) -> Leaving {
    match record.committed_at {
        None => Leaving::Undone(record.target.epoch),
        // With the next epoch it goes back.
        Some(_) => Leaving::Left(record.target.epoch.next()),
    }
}
