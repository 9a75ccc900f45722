//! What keeps any move of a tenant from beginning, whatever is in its tables:
//! each as the call refuses it, and all of them at once for a plan.

use insula_api::MoveObstacle;
use insula_catalog::{CatalogClient, MoveRecord, TenantRecord};
use insula_domain::{Isolation, MoveEnd, MoveStatus, OperationId, RolloutStatus, SchemaVersion};
use insula_problem::{Code, Problem};

use crate::Control;

/// Another move of the tenant has not ended.
#[must_use]
pub fn open_move(tenant: &TenantRecord, open: Option<&MoveRecord>) -> Option<Problem> {
    let open = open?;
    let id = open.id;
    let so = match open.status {
        MoveStatus::Running => {
            format!("is under way. It has to end, or to be cancelled first: insula move cancel {id}.")
        }
        MoveStatus::Moved => format!(
            "is done and can still be rolled back. One of both has to be chosen first: insula move complete {id}, or \
             insula move rollback {id}."
        ),
        _ => format!("is {}. It has to end first: insula move show {id} --watch.", open.status),
    };
    Some(Problem::new(Code::MoveOpen, format!("The move {id} of the tenant {} {so}", tenant.slug)))
}

/// Versions of the app schema and moves would change the same tables.
///
/// # Errors
/// Where the catalog is away.
pub async fn rollout(client: &CatalogClient) -> Result<Option<Problem>, Problem> {
    let newest = client.rollouts(None, 1).await?;
    let under_way = |status| matches!(status, RolloutStatus::Rolling | RolloutStatus::Pausing);
    Ok(newest.first().filter(|rollout| under_way(rollout.status)).map(|rollout| {
        Problem::new(
            Code::SchemaBusy,
            format!(
                "Version {} of the app schema is being rolled out. Move the tenant after that.",
                rollout.version
            ),
        )
        .retry_after(5)
    }))
}

/// The tenant has not the version of the app schema that the target will have.
#[must_use]
pub fn version(tenant: &TenantRecord, newest: SchemaVersion) -> Option<Problem> {
    (tenant.schema_version != newest).then(|| {
        Problem::new(
            Code::SchemaBehind,
            format!(
                "The tenant {} has version {} of the app schema, and the newest is {newest}: insula schema status.",
                tenant.slug, tenant.schema_version
            ),
        )
    })
}

/// Nobody can start the server that it would get.
#[must_use]
pub fn provisioner(control: &Control, target: Isolation) -> Option<Problem> {
    (target == Isolation::Cluster && control.provisioner.is_none()).then(|| {
        Problem::new(
            Code::ProvisionerMissing,
            "A tenant with a server of its own needs a provisioner, and none is set: [provisioner] in insula.toml.",
        )
    })
}

/// An earlier move has left something where it would go.
#[must_use]
pub fn left(tenant: &TenantRecord, target: &MoveEnd, found: Option<OperationId>) -> Option<Problem> {
    let (id, cluster) = (found?, target.cluster.as_ref()?);
    let detail = format!(
        "The move {id} has left something of {} on the cluster {cluster}, which was away: it is removed within a \
         minute of its return. Until then, name another cluster.",
        tenant.slug
    );
    Some(Problem::new(Code::MoveBlocked, detail).retry_after(60))
}

/// All of them, as obstacles of a plan.
///
/// # Errors
/// Where the catalog is away.
pub async fn all(
    control: &Control,
    tenant: &TenantRecord,
    target: &MoveEnd,
) -> Result<Vec<MoveObstacle>, Problem> {
    let client = control.catalog.client().await?;
    let open = client.open_move(tenant.id).await?;
    let newest = client.newest_schema_version().await?;
    let left_there = match &target.cluster {
        Some(cluster) => client.left_on(tenant.id, cluster).await?,
        None => None,
    };
    let found = [
        ("another move", open_move(tenant, open.as_ref())),
        ("app schema", rollout(&client).await?),
        ("app schema", version(tenant, newest)),
        ("provisioner", provisioner(control, target.isolation)),
        ("cluster", left(tenant, target, left_there)),
    ];
    let named =
        |(object, problem): (&str, Option<Problem>)| problem.map(|problem| obstacle(object, &problem));
    Ok(found.into_iter().filter_map(named).collect())
}

/// A refusal as something that stops the move, under its code.
#[must_use]
pub fn obstacle(object: &str, problem: &Problem) -> MoveObstacle {
    MoveObstacle {
        stops: true,
        kind: problem.code().as_str().to_owned(),
        object: object.to_owned(),
        detail: problem.detail().to_owned(),
    }
}
