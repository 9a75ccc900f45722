//! The blueprint: made when it is first asked for, brought to the versions of
//! the app schema, compared with them, and built again.

use insula_api::{BlueprintStatus, BlueprintUrl, ObjectFinding, OpenBlueprint, RebuildBlueprint};
use insula_app_schema::Migration;
use insula_catalog::{Author, BlueprintDrift, BlueprintRecord, CatalogClient, ClusterRecord, ClusterStatus};
use insula_credentials::{ScramVerifier, Secret};
use insula_domain::ClusterName;
use insula_problem::{Code, Problem};
use insula_tenant_cluster::ClusterAccess;
use insula_tenant_cluster::blueprint::{self, Blueprint};
use serde_json::json;

use super::fleet;
use crate::Control;
use crate::clusters::percent;

/// The audit's subject.
pub(super) const SUBJECT: &str = "blueprint";

/// Where the blueprint is, and the password of its role.
#[derive(Debug)]
pub struct Located {
    cluster: ClusterRecord,
    access: ClusterAccess,
    password: Secret,
}

impl Located {
    /// Opens it.
    ///
    /// # Errors
    /// `blueprint_missing`, `placement_unavailable`.
    pub async fn open(&self) -> Result<Blueprint<'_>, Problem> {
        Blueprint::open(&self.access, self.password.expose()).await
    }
}

/// Where the blueprint is; none where nobody has asked for it yet.
///
/// # Errors
/// Where the catalog is away.
pub async fn locate(control: &Control) -> Result<Option<Located>, Problem> {
    let client = control.catalog.client().await?;
    let Some(record) = client.blueprint().await? else { return Ok(None) };
    let cluster = cluster_of(&client, &record.cluster).await?;
    let access = control.clusters.access_of(&cluster)?;
    let password =
        control.keys.blueprint_password(&record.cluster, record.key_generation).map_err(Problem::internal)?;
    Ok(Some(Located { cluster, access, password }))
}

/// The blueprint, which must have been asked for before.
///
/// # Errors
/// `blueprint_missing` where it was not.
pub async fn find(control: &Control) -> Result<Located, Problem> {
    let detail = "There is no blueprint yet: `insula schema blueprint-url` makes it.";
    locate(control).await?.ok_or_else(|| Problem::new(Code::BlueprintMissing, detail))
}

async fn cluster_of(client: &CatalogClient, name: &ClusterName) -> Result<ClusterRecord, Problem> {
    client
        .cluster(name)
        .await?
        .ok_or_else(|| Problem::new(Code::UnknownCluster, format!("There is no cluster {name}.")))
}

/// The way to the blueprint. It is made where it is not there yet, and its role
/// gets the password of the newest master key.
///
/// # Errors
/// `unknown_cluster`, `no_capacity` where there is no cluster to make it on,
/// `blueprint_missing` where it was there and is gone.
pub async fn url(
    control: &Control,
    author: Author,
    request: &OpenBlueprint,
) -> Result<BlueprintUrl, Problem> {
    let mut client = control.catalog.client().await?;
    let known = client.blueprint().await?;
    let cluster = choose(&client, known.as_ref(), request.cluster.as_ref()).await?;
    let access = control.clusters.access_of(&cluster)?;
    let generation = control.keys.current_generation();
    let password = control.keys.blueprint_password(&cluster.name, generation).map_err(Problem::internal)?;
    let verifier = ScramVerifier::for_login(&password, control.entropy.as_ref()).to_text();
    let located = Located { cluster, access, password };
    if known.is_some() {
        // One that is gone is not made anew in passing.
        blueprint::set_password(&located.access, &verifier).await?;
        located.open().await?;
    }
    blueprint::create(&located.access, &verifier).await?;
    if known.is_none() {
        let opened = located.open().await?;
        opened.take_in_turn().await?;
        opened.bring(&fleet::forms(control).await?.plain).await?;
    }
    let change = client.change(author).await?;
    change.set_blueprint(&located.cluster.name, generation).await?;
    let detail = json!({"cluster": located.cluster.name, "made": known.is_none()});
    change.audit("blueprint.show", None, SUBJECT, &detail).await?;
    change.commit().await?;
    Ok(shown(&located))
}

/// The cluster that it is on or will be.
async fn choose(
    client: &CatalogClient,
    known: Option<&BlueprintRecord>,
    wanted: Option<&ClusterName>,
) -> Result<ClusterRecord, Problem> {
    if let Some(known) = known {
        if wanted.is_some_and(|wanted| *wanted != known.cluster) {
            let detail = format!("The blueprint is on the cluster {}, and stays there.", known.cluster);
            return Err(Problem::new(Code::InvalidRequest, detail).at("/cluster", "another cluster has it"));
        }
        return cluster_of(client, &known.cluster).await;
    }
    if let Some(wanted) = wanted {
        let cluster = cluster_of(client, wanted).await?;
        if cluster.tenant.is_some() {
            let detail = format!("The cluster {wanted} belongs to one tenant.");
            return Err(Problem::new(Code::InvalidRequest, detail).at("/cluster", "not shared"));
        }
        return Ok(cluster);
    }
    let shared = client.clusters().await?.into_iter();
    let shared = shared.filter(|cluster| cluster.tenant.is_none() && cluster.status == ClusterStatus::Active);
    shared.min_by_key(|cluster| (cluster.created_at, cluster.name.clone())).ok_or_else(|| {
        Problem::new(Code::NoCapacity, "There is no shared cluster yet on which the blueprint could be made.")
    })
}

fn shown(located: &Located) -> BlueprintUrl {
    let Located { cluster, password, .. } = located;
    let host = match cluster.host.as_str() {
        // A socket in a private folder: the server listens on loopback as well.
        socket if socket.starts_with('/') => "127.0.0.1".to_owned(),
        address if address.contains(':') => format!("[{address}]"),
        name => name.to_owned(),
    };
    let mode = if cluster.tls { "?sslmode=require" } else { "" };
    let (role, password) = (blueprint::ROLE, percent(password.expose()));
    let url = format!("postgres://{role}:{password}@{host}:{}/{role}{mode}", cluster.port);
    BlueprintUrl { cluster: cluster.name.clone(), url }
}

/// Gives the blueprint's role the password of the newest master key.
///
/// # Errors
/// Where the catalog or the cluster is away.
pub async fn rekey(control: &Control) -> Result<(), Problem> {
    let newest = control.keys.current_generation();
    let mut client = control.catalog.client().await?;
    let Some(record) = client.blueprint().await?.filter(|record| record.key_generation != newest) else {
        return Ok(());
    };
    let access = control.clusters.access(&record.cluster).await?;
    let password = control.keys.blueprint_password(&record.cluster, newest).map_err(Problem::internal)?;
    let verifier = ScramVerifier::for_login(&password, control.entropy.as_ref()).to_text();
    blueprint::set_password(&access, &verifier).await?;
    let change = client.change(control.worker()).await?;
    change.set_blueprint(&record.cluster, newest).await?;
    change.audit("blueprint.rekey", None, SUBJECT, &json!({"key_generation": newest})).await?;
    change.commit().await
}

/// Builds the blueprint again from the versions.
///
/// # Errors
/// `blueprint_ahead` where changes were not captured, unless they may be lost.
pub async fn rebuild(
    control: &Control,
    author: Author,
    request: &RebuildBlueprint,
) -> Result<BlueprintUrl, Problem> {
    let found = find(control).await?;
    match found.open().await {
        Ok(opened) => {
            opened.take().await?;
            if let Some(first) = opened.first_uncaptured().await?.filter(|_| !request.discard) {
                let detail = format!(
                    "The blueprint has changes that were not captured, the first of them: {first}. Capture them, or say that \
                     they may be lost."
                );
                return Err(Problem::new(Code::BlueprintAhead, detail));
            }
        }
        Err(problem) if problem.code() == Code::BlueprintMissing => {}
        Err(problem) => return Err(problem),
    }
    blueprint::drop_blueprint(&found.access).await?;
    let verifier = ScramVerifier::for_login(&found.password, control.entropy.as_ref()).to_text();
    blueprint::create(&found.access, &verifier).await?;
    let opened = found.open().await?;
    opened.take().await?;
    opened.bring(&fleet::forms(control).await?.plain).await?;
    let mut client = control.catalog.client().await?;
    let change = client.change(author).await?;
    change.set_blueprint_drift(&[]).await?;
    let detail = json!({"cluster": found.cluster.name, "discard": request.discard});
    change.audit("blueprint.rebuild", None, SUBJECT, &detail).await?;
    change.commit().await?;
    Ok(shown(&found))
}

/// Refuses versions that were not captured where the blueprint has changes that
/// were not captured either. A blueprint that cannot be reached holds no version
/// up.
///
/// # Errors
/// `blueprint_ahead` with the first change.
pub async fn refuse_if_ahead(control: &Control, pending: &[Migration]) -> Result<(), Problem> {
    let Some(located) = locate(control).await? else { return Ok(()) };
    let looked = async {
        let opened = located.open().await?;
        let there = opened.versions().await?;
        for migration in pending {
            if there.iter().all(|version| version.version != migration.version) {
                opened.refuse_if_ahead(migration).await?;
            }
        }
        Ok::<(), Problem>(())
    };
    match looked.await {
        Err(problem) if problem.code() != Code::BlueprintAhead => {
            tracing::warn!(cause = problem.chain(), "the blueprint was not looked at");
            Ok(())
        }
        other => other,
    }
}

/// Brings the blueprint to the versions and compares it with them. What is wrong
/// with it is noted and holds nothing up: it is a tool of developers.
///
/// # Errors
/// Where the catalog is away.
pub async fn follow(control: &Control) -> Result<(), Problem> {
    let Some(located) = locate(control).await? else { return Ok(()) };
    let drift = match compare(control, &located).await {
        Ok(None) => return Ok(()),
        Ok(Some(drift)) => drift,
        Err(problem) => {
            tracing::warn!(cause = problem.chain(), "the blueprint does not follow");
            let detail = format!("It could not be brought to the versions. {}", problem.detail());
            vec![BlueprintDrift { object: "blueprint".to_owned(), detail }]
        }
    };
    let mut client = control.catalog.client().await?;
    let change = client.change(control.worker()).await?;
    change.set_blueprint_drift(&drift).await?;
    change.audit("blueprint.follow", None, SUBJECT, &json!({"differences": drift.len()})).await?;
    change.commit().await
}

/// The differences; none where the blueprint is ahead of the versions, so that
/// there are some in any case.
async fn compare(control: &Control, located: &Located) -> Result<Option<Vec<BlueprintDrift>>, Problem> {
    let forms = fleet::forms(control).await?;
    let mut opened = located.open().await?;
    opened.take_in_turn().await?;
    opened.bring(&forms.plain).await?;
    opened.forget(forms.newest()).await?;
    let newest = opened.versions().await?.last().map(|version| version.version);
    if newest > Some(forms.newest()) || opened.first_uncaptured().await?.is_some() {
        return Ok(None);
    }
    let expected = opened.try_versions(&forms.plain).await?;
    let found = opened.contents().await?;
    let differences = expected.fingerprint.differences(&found.fingerprint).into_iter();
    Ok(Some(
        differences
            .map(|finding| BlueprintDrift { object: finding.object, detail: finding.detail })
            .collect(),
    ))
}

/// What `schema status` says of the blueprint.
///
/// # Errors
/// Where the catalog is away.
pub async fn status(client: &CatalogClient) -> Result<Option<BlueprintStatus>, Problem> {
    let shown = |record: BlueprintRecord| BlueprintStatus {
        cluster: record.cluster,
        drift: record
            .drift
            .into_iter()
            .map(|drift| ObjectFinding { object: drift.object, detail: drift.detail })
            .collect(),
    };
    Ok(client.blueprint().await?.map(shown))
}
