//! The doctor: compares what the catalog says with what is really on the
//! clusters and in the region stores, and lists every difference and every
//! orphan. It changes nothing of what it examines; to know what the versions
//! make on a cluster it makes a scratch database there and removes it, and with
//! it those that a crash left behind.

mod cluster;
mod expected;
mod operations;

use std::collections::{BTreeMap, BTreeSet};

use insula_api::{DoctorReport, Finding, FindingKind, Note};
use insula_catalog::{CatalogClient, ClusterRecord, TenantRecord};
use insula_config_store::HomeState;
use insula_domain::{TenantId, TenantStatus};
use insula_problem::Problem;

use crate::Control;
use crate::moves::left;

/// How many moves that have left something are named.
const LEFT_MAX: i64 = 100;

/// The report in the making.
#[derive(Debug, Default)]
pub struct Findings {
    checks: u32,
    findings: Vec<Finding>,
    notes: Vec<Note>,
}

impl Findings {
    /// One check: what is wrong where it does not hold.
    pub fn check(&mut self, holds: bool, kind: FindingKind, place: &str, object: &str, detail: &str) {
        self.checks += 1;
        if !holds {
            self.add(kind, place, object, detail);
        }
    }

    /// Something that is to be known, and is not wrong.
    pub fn note(&mut self, place: &str, object: &str, detail: String) {
        self.notes.push(Note { place: place.to_owned(), object: object.to_owned(), detail });
    }

    /// Something that was found by itself.
    pub fn add(&mut self, kind: FindingKind, place: &str, object: &str, detail: &str) {
        self.findings.push(Finding {
            kind,
            place: place.to_owned(),
            object: object.to_owned(),
            detail: detail.to_owned(),
        });
    }
}

/// Examines everything.
///
/// # Errors
/// Where the catalog is away: without it there is nothing to compare with.
pub async fn examine(control: &Control) -> Result<DoctorReport, Problem> {
    let client = control.catalog.client().await?;
    let tenants = client.all_tenants().await?;
    let clusters = client.clusters().await?;
    let mut moving = control.operations.subjects_under_way().await?;
    let mut findings = Findings::default();

    operations::examine(control, &mut findings).await?;
    // What has two places until its move has ended.
    moving.extend(client.open_moves().await?.iter().map(|record| record.tenant));
    moving.extend(half_made(&client, &tenants, &moving, &mut findings).await?);
    for cluster in &clusters {
        let here: Vec<&TenantRecord> = tenants
            .iter()
            .filter(|tenant| {
                tenant.placement.as_ref().is_some_and(|placement| placement.cluster == cluster.name)
            })
            .collect();
        if let Err(problem) = cluster::examine(control, cluster, &here, &moving, &mut findings).await {
            let detail = format!("It could not be read: {}", problem.chain());
            findings.add(FindingKind::Unreachable, cluster.name.as_str(), "cluster", &detail);
        }
    }
    for record in client.moves_with_left(LEFT_MAX).await? {
        let Some(left) = left::of(&record) else { continue };
        let detail = format!(
            "It has left what it had made there, because the server was away: {} The janitor removes it within a \
             minute of the server's return.",
            left.because
        );
        findings.add(FindingKind::Orphan, left.cluster.as_str(), &format!("move {}", record.id), &detail);
    }
    homes(control, &tenants, &moving, &mut findings).await;
    configuration(control, &tenants, &moving, &mut findings).await;
    provisioned(control, &clusters, &moving, &mut findings).await;
    Ok(DoctorReport {
        tenants: u32::try_from(tenants.len()).unwrap_or(u32::MAX),
        clusters: u32::try_from(clusters.len()).unwrap_or(u32::MAX),
        checks: findings.checks,
        findings: findings.findings,
        notes: findings.notes,
    })
}

/// Every tenant that is being created has an operation that creates it, and
/// every one that is being deleted has one, or a time at which it is purged.
/// Gives back those of which that is not so: what is there of them is not known.
async fn half_made(
    client: &CatalogClient,
    tenants: &[TenantRecord],
    moving: &BTreeSet<TenantId>,
    findings: &mut Findings,
) -> Result<Vec<TenantId>, Problem> {
    let is_half_made = |tenant: &TenantRecord| match tenant.status {
        TenantStatus::Provisioning => true,
        TenantStatus::Deleting => tenant.purge_at.is_none(),
        _ => false,
    };
    let mut found = Vec::new();
    for tenant in tenants.iter().filter(|tenant| is_half_made(tenant) && !moving.contains(&tenant.id)) {
        // Its operation may have ended since the tenants were read.
        let now = client.tenant(tenant.id).await?;
        let half_made = now.as_ref().is_some_and(is_half_made);
        found.extend(half_made.then_some(tenant.id));
        let detail = format!(
            "It is {}, and no operation is at work on it. insula tenant delete removes what is there.",
            tenant.status
        );
        findings.check(
            !half_made,
            FindingKind::Orphan,
            "catalog",
            &format!("tenant {}", tenant.slug),
            &detail,
        );
    }
    Ok(found)
}

/// Every tenant is at home in its region's store, and nobody else is.
async fn homes(
    control: &Control,
    tenants: &[TenantRecord],
    moving: &BTreeSet<TenantId>,
    findings: &mut Findings,
) {
    let mut expected: BTreeMap<_, BTreeSet<TenantId>> = BTreeMap::new();
    for tenant in tenants.iter().filter(|tenant| tenant.status != TenantStatus::Provisioning) {
        expected.entry(&tenant.region).or_default().insert(tenant.id);
    }
    for (region, store) in control.regions.iter() {
        let place = format!("region store {region}");
        let homes = match store.homes().await {
            Ok(homes) => homes,
            Err(problem) => {
                findings.add(FindingKind::Unreachable, &place, "homes", &problem.chain());
                continue;
            }
        };
        let there: BTreeSet<_> = homes.into_iter().collect();
        let wanted = expected.remove(region).unwrap_or_default();
        for tenant in wanted.union(&there).filter(|tenant| !moving.contains(tenant)) {
            let kind = if there.contains(tenant) { FindingKind::Orphan } else { FindingKind::Missing };
            let holds = there.contains(tenant) && wanted.contains(tenant);
            findings.check(
                holds,
                kind,
                &place,
                &format!("home of {tenant}"),
                "Catalog and region store differ.",
            );
        }
    }
}

/// What tenants have configured is open in the store of their own region, and
/// nothing is kept of anybody else.
async fn configuration(
    control: &Control,
    tenants: &[TenantRecord],
    moving: &BTreeSet<TenantId>,
    findings: &mut Findings,
) {
    for (region, _) in control.regions.iter() {
        let place = format!("region store {region}");
        let known = async {
            let store = control.configuration(region)?;
            Ok::<_, Problem>((store.homes().await?, store.strays().await?))
        };
        let (homes, strays) = match known.await {
            Ok(known) => known,
            Err(problem) => {
                findings.add(FindingKind::Unreachable, &place, "configuration", &problem.chain());
                continue;
            }
        };
        let open: BTreeSet<TenantId> = homes
            .iter()
            .filter(|(_, home)| home.state == HomeState::Open)
            .map(|(tenant, _)| *tenant)
            .collect();
        let is_here =
            |tenant: &&TenantRecord| tenant.region == *region && tenant.status != TenantStatus::Provisioning;
        let wanted: BTreeSet<TenantId> = tenants.iter().filter(is_here).map(|tenant| tenant.id).collect();
        let kept: BTreeSet<TenantId> = homes.into_iter().map(|(tenant, _)| tenant).chain(strays).collect();
        for tenant in wanted.union(&kept).filter(|tenant| !moving.contains(tenant)) {
            let kind = if wanted.contains(tenant) { FindingKind::Missing } else { FindingKind::Orphan };
            let holds = wanted.contains(tenant) && open.contains(tenant);
            let object = format!("configuration of {tenant}");
            findings.check(holds, kind, &place, &object, "Catalog and region store differ.");
        }
    }
}

/// Every server that the provisioner has started is registered.
async fn provisioned(
    control: &Control,
    clusters: &[ClusterRecord],
    moving: &BTreeSet<TenantId>,
    findings: &mut Findings,
) {
    let Some(provisioner) = &control.provisioner else { return };
    let place = format!("provisioner {}", provisioner.kind());
    let started = match provisioner.list().await {
        Ok(started) => started.into_iter().collect::<BTreeSet<_>>(),
        Err(problem) => {
            findings.add(FindingKind::Unreachable, &place, "servers", &problem.chain());
            return;
        }
    };
    for (name, why) in provisioner.down() {
        findings.add(FindingKind::Unreachable, &place, name.as_str(), &format!("It does not start: {why}"));
    }
    let registered: BTreeSet<_> = clusters
        .iter()
        .filter(|cluster| cluster.provisioned.as_deref() == Some(provisioner.kind()))
        .map(|cluster| cluster.name.clone())
        .collect();
    // A server whose tenant is being created or purged is between two states.
    let between = |name: &insula_domain::ClusterName| {
        moving.iter().any(|tenant| {
            let id = tenant.simple();
            name.as_str().contains(&id[id.len() - 12..])
        })
    };
    for name in started.union(&registered).filter(|name| !between(name)) {
        let kind = if started.contains(name) { FindingKind::Orphan } else { FindingKind::Missing };
        let holds = started.contains(name) && registered.contains(name);
        findings.check(holds, kind, &place, &format!("server {name}"), "Catalog and provisioner differ.");
    }
}
