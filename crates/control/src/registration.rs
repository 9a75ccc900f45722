//! Registering a cluster that somebody else runs.

use std::io::ErrorKind;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::SocketAddr;
use std::path::Path;

use insula_api::AddCluster;
use insula_catalog::{Author, Capacity, ClusterRecord};
use insula_credentials::Secret;
use insula_domain::{Address, ClusterName, InvalidName};
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
        let maintenance = access.maintenance().await.map_err(|problem| unreachable(&new, problem))?;
        inspect(&maintenance).await?.suitable()?
    };
    if let Some(known) = client.cluster(&new.name).await? {
        if known.system_identifier == inspection.system_identifier {
            insula_tenant_cluster::enroll_tenants(&*access.maintenance().await?).await?;
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
    // A rollout that is under way would not see the cluster before it is registered.
    if change.hold_newest_schema_version().await? != version {
        let detail = "A version of the app schema was published meanwhile. Add the cluster again.";
        return Err(Problem::new(Code::SchemaBusy, detail).retry_after(1));
    }
    let record =
        control.clusters.register(&change, &new, &inspection, version, control.entropy.as_ref()).await?;
    let detail = json!({"region": record.region, "host": record.host, "port": record.port});
    change.audit("cluster.add", None, record.name.as_str(), &detail).await?;
    control.answer_body(&change, 201, &clusters::shown(record.clone(), 0)).await?;
    change.commit().await?;
    Ok(record)
}

/// Writes down that a registered server is reached elsewhere now: by another
/// port, or by its socket. Whoever calls knows that it is the same server.
///
/// # Errors
/// Where the catalog is away.
pub async fn find_again(
    control: &Control,
    author: Author,
    cluster: &ClusterRecord,
    host: &str,
    port: u16,
) -> Result<(), Problem> {
    if cluster.host == host && cluster.port == port {
        return Ok(());
    }
    let mut client = control.catalog.client().await?;
    let change = client.change(author).await?;
    change.set_cluster_endpoint(&cluster.name, host, port).await?;
    let detail = json!({"host": host, "port": port});
    change.audit("cluster.address", None, cluster.name.as_str(), &detail).await?;
    change.commit().await
}

fn unreachable(new: &NewCluster, problem: Problem) -> Problem {
    let detail = match Address::new(&new.host, new.port) {
        Address::Tcp(..) => "The server does not answer, or refuses the user. Check host, port, user and \
                             password, and that it can be reached from here."
            .to_owned(),
        Address::Socket(path) => no_socket(&path).unwrap_or_else(|| {
            "The server does not answer at its socket, or refuses the user. Check user and password."
                .to_owned()
        }),
    };
    Problem::new(Code::ClusterUnreachable, detail).caused_by(problem)
}

/// Why there is no socket for us at a path; `None` where there is one.
fn no_socket(path: &Path) -> Option<String> {
    let shown = path.display();
    match std::fs::metadata(path) {
        Ok(found) if found.file_type().is_socket() => None,
        Ok(_) => Some(format!("There is no socket at {shown}, but something else.")),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            Some(format!("The user of this process may not reach the socket at {shown}."))
        }
        Err(error) => Some(format!(
            "There is no socket at {shown} ({error}). Check folder and port, and that the server runs on this \
             machine."
        )),
    }
}

fn parts(
    request: &AddCluster,
    name: ClusterName,
    region: insula_domain::RegionName,
) -> Result<NewCluster, Problem> {
    let invalid = |detail: &str| Problem::new(Code::InvalidRequest, detail).at("/url", "not usable");
    let parts: UrlParts = Connector::parts(&request.url).map_err(|error| {
        invalid(
            "The URL is not a PostgreSQL URL with one host: postgres://user:password@host:port/postgres, or \
             postgres://user:password@%2Ffolder:port/postgres for the socket in a folder.",
        )
        .caused_by(error)
    })?;
    if let Address::Socket(path) = Address::new(&parts.host, parts.port)
        && let Err(error) = SocketAddr::from_pathname(&path)
    {
        return Err(invalid(&format!("{} cannot be the path of a socket: {error}.", path.display())));
    }
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
