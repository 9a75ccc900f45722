//! Registering a cluster that somebody else runs.

use insula_api::AddCluster;
use insula_catalog::{Author, Capacity, ClusterRecord};
use insula_credentials::Secret;
use insula_domain::{ClusterName, InvalidName};
use insula_problem::{Code, Problem};
use insula_sql_store::{Connector, UrlParts};
use insula_tenant_cluster::inspect;
use serde_json::json;

use crate::Control;
use crate::clusters::{self, NewCluster};
use crate::schema::fleet;
use crate::tenants::create::{find_region, sentence};

/// Inspects, prepares and registers a server. Registering the same server
/// again under its name changes nothing.
///
/// # Errors
/// `cluster_unreachable` where it does not answer, `cluster_unsuitable` with
/// all that is missing, `cluster_name_taken` where the name is another's.
pub async fn add(control: &Control, author: Author, request: &AddCluster) -> Result<ClusterRecord, Problem> {
    let name: ClusterName = request.name.parse().map_err(|error: InvalidName| {
        Problem::new(Code::InvalidRequest, sentence(&error.to_string())).at("/name", error.rule)
    })?;
    let mut client = control.catalog.client().await?;
    let regions = client.regions().await?;
    let region = find_region(&regions, &request.region)?.name.clone();
    let new = parts(request, name, region)?;
    let access = control.clusters.access_new(&new)?;
    let inspection = {
        let maintenance = access.maintenance().await.map_err(unreachable)?;
        inspect(&maintenance).await?.suitable()?
    };
    if let Some(known) = client.cluster(&new.name).await? {
        if known.system_identifier == inspection.system_identifier {
            return Ok(known);
        }
        return Err(Problem::new(
            Code::ClusterNameTaken,
            format!("Another server is registered as {}.", new.name),
        ));
    }
    insula_tenant_cluster::prepare_shared(&access).await?;
    let version = fleet::bring_shared(&access, &*fleet::forms(control).await?).await?;
    let change = client.change(author).await?;
    let record =
        control.clusters.register(&change, &new, &inspection, version, control.entropy.as_ref()).await?;
    let detail = json!({"region": record.region, "host": record.host, "port": record.port});
    change.audit("cluster.add", None, record.name.as_str(), &detail).await?;
    control.answer_body(&change, 201, &clusters::shown(record.clone(), 0)).await?;
    change.commit().await?;
    Ok(record)
}

fn unreachable(problem: Problem) -> Problem {
    let detail = "The server does not answer, or refuses the user. Check host, port, user and password, and that \
                  it can be reached from here.";
    Problem::new(Code::ClusterUnreachable, detail).caused_by(problem)
}

fn parts(
    request: &AddCluster,
    name: ClusterName,
    region: insula_domain::RegionName,
) -> Result<NewCluster, Problem> {
    let invalid = |detail: &str| Problem::new(Code::InvalidRequest, detail).at("/url", "not usable");
    let parts: UrlParts = Connector::parts(&request.url).map_err(|error| {
        invalid("The URL is not a PostgreSQL URL with one host: postgres://user:password@host:port/postgres.")
            .caused_by(error)
    })?;
    let capacity = request.capacity.map_or_else(Capacity::default, |capacity| Capacity {
        pool: capacity.pool,
        schema: capacity.schema,
        database: capacity.database,
    });
    if [capacity.pool, capacity.schema, capacity.database].iter().any(|most| i32::try_from(*most).is_err()) {
        return Err(
            Problem::new(Code::InvalidRequest, "A capacity is out of range.").at("/capacity", "too large")
        );
    }
    Ok(NewCluster {
        name,
        region,
        host: parts.host,
        port: parts.port,
        tls: parts.tls,
        admin_user: parts.user,
        admin_password: Secret::new(parts.password),
        tenant: None,
        provisioned: None,
        capacity,
    })
}
