//! One cluster against the catalog: roles, schemas, databases, rows, and the
//! form of every placement.

use std::collections::{BTreeMap, BTreeSet};

use insula_api::FindingKind::{Difference, Missing, Orphan};
use insula_catalog::{ClusterRecord, TenantRecord};
use insula_credentials::ScramVerifier;
use insula_domain::{DatabaseName, Isolation, Placement, RoleName, TenantId, TenantStatus};
use insula_problem::Problem;
use insula_tenant_cluster::{self as cluster, ClusterAccess, Connection, Survey, SurveyedRole};

use super::Findings;
use super::expected::differences;
use crate::Control;
use crate::moves::reaper;
use crate::schema::audit;

/// The part of the queue of notifications that may be in use: when it is full, transactions that notify fail.
const NOTIFICATION_QUEUE_MAX: f64 = 0.5;

/// Examines a cluster.
///
/// # Errors
/// Where it cannot be read.
pub async fn examine(
    control: &Control,
    record: &ClusterRecord,
    tenants: &[&TenantRecord],
    moving: &BTreeSet<TenantId>,
    findings: &mut Findings,
) -> Result<(), Problem> {
    let place = record.name.as_str();
    let access = control.clusters.access_of(record)?;
    let maintenance = access.maintenance().await?;
    let inspection = cluster::inspect(&maintenance).await?;
    findings.check(
        inspection.system_identifier == record.system_identifier,
        Difference,
        place,
        "server",
        "Another server answers at the cluster's address.",
    );
    admission(place, &maintenance, findings).await?;
    // What a stop or a crash has left behind of them is nobody's fault to find.
    cluster::drop_abandoned_scratch(&access).await?;
    let survey = cluster::survey(&maintenance).await?;
    findings.check(
        survey.notification_queue < NOTIFICATION_QUEUE_MAX,
        Difference,
        place,
        "queue of notifications",
        "It is more than half full, and all tenants of the server share it: a session that listens keeps a \
         transaction open.",
    );
    let settled: BTreeMap<TenantId, (&TenantRecord, &Placement)> = tenants
        .iter()
        .filter(|tenant| tenant.status != TenantStatus::Provisioning && !moving.contains(&tenant.id))
        .filter_map(|tenant| Some((tenant.id, (*tenant, tenant.placement.as_ref()?))))
        .collect();
    roles(control, place, &survey, &settled, moving, findings);
    databases(place, record, &survey, &settled, moving, findings);
    let streams = cluster::moving::replication_objects(&access).await?;
    for (kind, name) in reaper::orphans(&streams, &reaper::open_moves(control).await?) {
        let object = format!("{kind} {name}");
        findings.add(Orphan, place, &object, "Its move has ended; the janitor removes it within minutes.");
    }
    if record.tenant.is_none() {
        shared_databases(place, &access, &settled, moving, findings).await?;
    }
    let mut forms = audit::cluster(control, record, tenants, moving, true).await?;
    findings.checks += forms.placements;
    forms.findings.extend(audit::own_objects(control, tenants, moving).await?);
    for form in forms.findings {
        findings.add(Difference, place, &format!("{} {}", form.placement, form.object), &form.detail);
    }
    Ok(())
}

/// Whether tenants' roles are admitted from anywhere. That is for whoever runs
/// the server to decide, who may have closed the door elsewhere.
async fn admission(place: &str, maintenance: &Connection, findings: &mut Findings) -> Result<(), Problem> {
    let rules = cluster::read_rules(maintenance).await?.unwrap_or_default();
    if let Some(rule) = cluster::admits_tenants_from_anywhere(&rules) {
        let detail = format!(
            "Line {} admits the roles of tenants from every address, past the front: {} {} {} {} {}. Admit \
             +{} from the fronts alone.",
            rule.line,
            rule.kind,
            rule.databases.join(","),
            rule.users.join(","),
            rule.address,
            rule.method,
            cluster::TENANTS
        );
        findings.note(place, "pg_hba.conf", detail);
    }
    Ok(())
}

type Settled<'a> = BTreeMap<TenantId, (&'a TenantRecord, &'a Placement)>;

fn roles(
    control: &Control,
    place: &str,
    survey: &Survey,
    settled: &Settled<'_>,
    moving: &BTreeSet<TenantId>,
    findings: &mut Findings,
) {
    for role in &survey.roles {
        let object = format!("role {}", role.name);
        let Some(id) = role.name.tenant() else { continue };
        if moving.contains(&id) {
            continue;
        }
        match settled.get(&id) {
            None => findings.check(false, Orphan, place, &object, "The catalog has no tenant for it here."),
            Some((tenant, placement)) => {
                let wrong = differences(tenant, placement, role, password_fits(control, tenant, role));
                findings.check(wrong.is_empty(), Difference, place, &object, &wrong.join(" "));
            }
        }
    }
    for id in survey.schema_owners.iter().filter(|id| !moving.contains(id)) {
        let known = settled.get(id).is_some_and(|(_, placement)| placement.isolation == Isolation::Schema);
        let object = format!("role t_{}_owner", id.simple());
        findings.check(known, Orphan, place, &object, "The catalog has no schema of a tenant for it here.");
    }
    let there: BTreeSet<&RoleName> = survey.roles.iter().map(|role| &role.name).collect();
    for id in settled.keys() {
        for role in [RoleName::of_tenant(*id), RoleName::read_only_of_tenant(*id)] {
            findings.check(
                there.contains(&role),
                Missing,
                place,
                &format!("role {role}"),
                "It is not on the cluster.",
            );
        }
    }
}

fn password_fits(control: &Control, tenant: &TenantRecord, role: &SurveyedRole) -> bool {
    let read_only = role.name == RoleName::read_only_of_tenant(tenant.id);
    let password = control.keys.role_password(tenant.id, read_only, tenant.key_generation);
    let verifier = role.verifier.as_deref().and_then(|text| text.parse::<ScramVerifier>().ok());
    matches!((password, verifier), (Ok(password), Some(verifier)) if verifier.verifies(&password))
}

fn databases(
    place: &str,
    record: &ClusterRecord,
    survey: &Survey,
    settled: &Settled<'_>,
    moving: &BTreeSet<TenantId>,
    findings: &mut Findings,
) {
    let own: BTreeSet<&DatabaseName> = settled
        .values()
        .filter(|(_, placement)| matches!(placement.isolation, Isolation::Database | Isolation::Cluster))
        .map(|(_, placement)| &placement.database)
        .collect();
    for database in &own {
        let there = survey.databases.contains(*database);
        findings.check(there, Missing, place, &format!("database {database}"), "It is not on the cluster.");
    }
    for database in survey.databases.iter().filter(|database| database.as_str().starts_with("t_")) {
        let being_moved = moving.iter().any(|id| *database == DatabaseName::of_tenant(*id));
        let known = own.contains(database) || being_moved;
        findings.check(
            known,
            Orphan,
            place,
            &format!("database {database}"),
            "The catalog has no tenant for it here.",
        );
    }
    for database in &survey.abandoned {
        let object = format!("database {database}");
        findings.add(
            Orphan,
            place,
            &object,
            "Whoever made it to read something is gone, and it could not be removed.",
        );
    }
    let shared =
        if record.tenant.is_some() { vec![] } else { vec![DatabaseName::pool(), DatabaseName::schemas()] };
    for database in shared {
        let there = survey.databases.contains(&database);
        findings.check(there, Missing, place, &format!("database {database}"), "It is not on the cluster.");
    }
}

/// Schemas of tenants, and rows in shared tables.
async fn shared_databases(
    place: &str,
    access: &ClusterAccess,
    settled: &Settled<'_>,
    moving: &BTreeSet<TenantId>,
    findings: &mut Findings,
) -> Result<(), Problem> {
    let of_model = |model: Isolation| -> BTreeSet<TenantId> {
        settled.iter().filter(|(_, (_, placement))| placement.isolation == model).map(|(id, _)| *id).collect()
    };
    let (schemas, own) = cluster::survey_schemas(&*access.shared(&DatabaseName::schemas()).await?).await?;
    let wanted = of_model(Isolation::Schema);
    for id in own.iter().filter(|id| !moving.contains(id)) {
        let object = format!("schema of {id}'s own objects");
        findings.check(wanted.contains(id), Orphan, place, &object, "The catalog has no such tenant here.");
    }
    for id in schemas.union(&wanted).filter(|id| !moving.contains(id)) {
        let kind = if wanted.contains(id) { Missing } else { Orphan };
        let holds = schemas.contains(id) && wanted.contains(id);
        findings.check(holds, kind, place, &format!("schema of {id}"), "Catalog and cluster differ.");
    }
    let pool = access.shared(&DatabaseName::pool()).await?;
    for (sequence, last, most) in cluster::survey_short_sequences(&pool).await? {
        let detail = format!(
            "It has given out {last} of {most} numbers, which all tenants of the pool share. A column of type bigint \
             has more."
        );
        findings.add(Difference, place, &format!("sequence {sequence}"), &detail);
    }
    let rows = cluster::survey_pool_tenants(&pool).await?;
    let pooled = of_model(Isolation::Pool);
    for id in rows.iter().filter(|id| !moving.contains(id)) {
        findings.check(
            pooled.contains(id),
            Orphan,
            place,
            &format!("rows of {id}"),
            "Shared tables hold rows of a tenant that is not there.",
        );
    }
    Ok(())
}
