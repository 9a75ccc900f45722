//! The catalog audit: PostgreSQL's own catalogs prove the form of every
//! placement. Shared tables must be the pool form; everything else must be
//! what the plain migrations alone make on a server of the same version.

use std::collections::BTreeSet;

use futures_util::{StreamExt, TryStreamExt, stream};
use insula_api::{AuditFinding, SchemaAudit};
use insula_catalog::{ClusterRecord, TenantRecord};
use insula_domain::{DatabaseName, Isolation, Placement, SchemaName, SchemaVersion, TenantId, TenantStatus};
use insula_problem::Problem;
use insula_tenant_cluster::schema::{self, Finding, SchemaFingerprint};
use insula_tenant_cluster::{self as cluster, ClusterAccess, Connection, audit_own};

use super::fleet::{Forms, forms};
use super::known;
use crate::{Control, own_objects};

/// How many placements are read at a time.
const AT_ONCE: usize = 4;

/// Audits the fleet. A cluster that cannot be read is a finding among the others.
///
/// # Errors
/// Where the catalog is away.
pub async fn audit(control: &Control) -> Result<SchemaAudit, Problem> {
    let client = control.catalog.client().await?;
    let (clusters, tenants) = (client.clusters().await?, client.all_tenants().await?);
    let moving = control.operations.subjects_under_way().await?;
    let mut whole = SchemaAudit { placements: 0, findings: Vec::new() };
    for record in &clusters {
        let here: Vec<&TenantRecord> = tenants
            .iter()
            .filter(|tenant| {
                tenant.placement.as_ref().is_some_and(|placement| placement.cluster == record.name)
            })
            .collect();
        match self::cluster(control, record, &here, &moving, true).await {
            Ok(part) => {
                whole.placements += part.placements;
                whole.findings.extend(part.findings);
                whole.findings.extend(own_objects(control, &here, &moving).await?);
            }
            Err(problem) => whole.add(record.name.as_str(), vec![unread("cluster", &problem)]),
        }
    }
    Ok(whole)
}

/// Audits one cluster: its shared tables, where `shared` asks for them, and the
/// silos of the tenants given. Tenants that are between two states are left out.
/// Scratch databases that a crash has left on it are removed.
///
/// # Errors
/// Where the cluster is away.
pub async fn cluster(
    control: &Control,
    record: &ClusterRecord,
    tenants: &[&TenantRecord],
    moving: &BTreeSet<TenantId>,
    shared: bool,
) -> Result<SchemaAudit, Problem> {
    let access = control.clusters.access_of(record)?;
    let forms = forms(control).await?;
    cluster::drop_abandoned_scratch(&access).await?;
    let mut part = SchemaAudit { placements: 0, findings: Vec::new() };
    let (pooled, silos): (Vec<&TenantRecord>, Vec<&TenantRecord>) = tenants
        .iter()
        .copied()
        .filter(|tenant| {
            !matches!(tenant.status, TenantStatus::Provisioning | TenantStatus::Deleted)
                && !moving.contains(&tenant.id)
        })
        .partition(|tenant| tenant.isolation == Some(Isolation::Pool));
    if shared && record.tenant.is_none() {
        let client = access.shared(&DatabaseName::pool()).await?;
        let findings = shared_tables(&client, &forms, &pooled).await?;
        part.add(&format!("shared tables of {}", record.name), findings);
    }
    let newest = forms.newest();
    let expected = match silos.iter().any(|tenant| tenant.schema_version == newest) {
        true => Some(known::expected(control, record, &forms, newest).await?),
        false => None,
    };
    let silos: Vec<TenantRecord> = silos.into_iter().cloned().collect();
    let audited = stream::iter(silos).map(|tenant| {
        let (access, forms, expected) = (&access, &forms, expected.as_deref());
        async move {
            let findings = of_tenant(control, access, forms, expected, &tenant).await?;
            Ok::<_, Problem>((tenant, findings))
        }
    });
    let audited: Vec<(TenantRecord, Option<Vec<Finding>>)> = audited.buffered(AT_ONCE).try_collect().await?;
    for (tenant, findings) in audited {
        if let Some(findings) = findings {
            part.add(tenant.slug.as_str(), findings);
        }
    }
    Ok(part)
}

/// What is wrong with the place that a tenant has for itself; none where the
/// tenant has none any more.
async fn of_tenant(
    control: &Control,
    access: &ClusterAccess,
    forms: &Forms,
    expected: Option<&SchemaFingerprint>,
    tenant: &TenantRecord,
) -> Result<Option<Vec<Finding>>, Problem> {
    let Some(placement) = &tenant.placement else { return Ok(None) };
    let Some(expected) = expected.filter(|_| tenant.schema_version == forms.newest()) else {
        return Ok(Some(vec![behind(tenant.schema_version, forms)]));
    };
    let findings = match silo(access, placement, expected).await {
        Ok(findings) => findings,
        Err(problem) => vec![unread("placement", &problem)],
    };
    // An operation may have begun since, and may have taken the place away.
    let is_settled = findings.is_empty() || !is_moving(control, tenant.id).await?;
    Ok(is_settled.then_some(findings))
}

/// The form of a place that one tenant has.
async fn silo(
    access: &ClusterAccess,
    placement: &Placement,
    expected: &SchemaFingerprint,
) -> Result<Vec<Finding>, Problem> {
    let missing =
        |what: &str| vec![Finding { object: what.to_owned(), detail: "It is not there.".to_owned() }];
    if !cluster::database_exists(&*access.maintenance().await?, &placement.database).await? {
        return Ok(missing(&format!("database {}", placement.database)));
    }
    let client = match placement.isolation {
        Isolation::Schema => access.shared(&placement.database).await?,
        _ => access.own(&placement.database).await?,
    };
    if !cluster::schema_exists(&client, &placement.schema).await? {
        return Ok(missing(&format!("schema {}", placement.schema)));
    }
    schema::audit_silo(&client, &placement.schema, expected).await
}

/// Whether an operation is at work on the tenant, or has removed it.
async fn is_moving(control: &Control, tenant: TenantId) -> Result<bool, Problem> {
    if control.operations.subjects_under_way().await?.contains(&tenant) {
        return Ok(true);
    }
    let now = control.catalog.client().await?.tenant(tenant).await?;
    Ok(now.is_none_or(|tenant| tenant.status == TenantStatus::Deleted))
}

fn unread(object: &str, problem: &Problem) -> Finding {
    Finding { object: object.to_owned(), detail: format!("It could not be read: {}", problem.chain()) }
}

/// Audits the schemas of the tenants' own objects. Tenants that are between two
/// states are left out.
///
/// # Errors
/// Where the catalog is away.
pub async fn own_objects(
    control: &Control,
    tenants: &[&TenantRecord],
    moving: &BTreeSet<TenantId>,
) -> Result<Vec<AuditFinding>, Problem> {
    let settled = |status| !matches!(status, TenantStatus::Provisioning | TenantStatus::Deleted);
    let tenants = tenants.iter().filter(|tenant| settled(tenant.status) && !moving.contains(&tenant.id));
    let tenants: Vec<TenantRecord> = tenants.map(|tenant| (*tenant).clone()).collect();
    let audited = stream::iter(tenants).map(|tenant| own_objects_of(control, tenant));
    let found: Vec<Vec<AuditFinding>> = audited.buffered(AT_ONCE).try_collect().await?;
    Ok(found.concat())
}

async fn own_objects_of(control: &Control, tenant: TenantRecord) -> Result<Vec<AuditFinding>, Problem> {
    let read = async {
        let Some((space, client)) = own_objects::space(control, &tenant).await? else {
            return Ok(Vec::new());
        };
        audit_own(&client, &space, tenant.may_own()).await
    };
    let findings = match read.await {
        Ok(findings) if findings.is_empty() || is_moving(control, tenant.id).await? => Vec::new(),
        Ok(findings) => findings,
        Err(problem) => {
            // The audit of the tenant's tables, in the same place, tells of it.
            tracing::warn!(tenant = %tenant.slug, cause = problem.chain(), "a tenant's own schema was not read");
            Vec::new()
        }
    };
    let told = findings.into_iter().map(|finding| AuditFinding {
        placement: tenant.slug.to_string(),
        object: finding.object,
        detail: finding.detail,
    });
    Ok(told.collect())
}

fn behind(version: SchemaVersion, forms: &Forms) -> Finding {
    let detail = format!("It is at version {version}; the newest is {}.", forms.newest());
    Finding { object: "schema version".to_owned(), detail }
}

/// The form of shared tables at the version that they have, that it is the
/// newest, and that every tenant in them is known to have it.
async fn shared_tables(
    client: &Connection,
    forms: &Forms,
    tenants: &[&TenantRecord],
) -> Result<Vec<Finding>, Problem> {
    let applied = schema::applied_version(client, &SchemaName::pool()).await?;
    let version = applied.map_or(SchemaVersion(0), |applied| applied.version);
    let known = forms.pool.iter().take_while(|migration| migration.version() <= version).count();
    let mut findings = schema::audit_pool(client, &forms.pool[..known]).await?;
    if version != forms.newest() {
        findings.push(behind(version, forms));
    }
    let differs = tenants.iter().filter(|tenant| tenant.schema_version != version);
    findings.extend(differs.map(|tenant| Finding {
        object: format!("tenant {}", tenant.slug),
        detail: format!(
            "It is known to be at version {}; the tables are at {version}.",
            tenant.schema_version
        ),
    }));
    Ok(findings)
}

trait Add {
    fn add(&mut self, placement: &str, findings: Vec<Finding>);
}

impl Add for SchemaAudit {
    fn add(&mut self, placement: &str, findings: Vec<Finding>) {
        self.placements += 1;
        self.findings.extend(findings.into_iter().map(|finding| AuditFinding {
            placement: placement.to_owned(),
            object: finding.object,
            detail: finding.detail,
        }));
    }
}
