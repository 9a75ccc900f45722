//! What a tenant's roles must look like, as pure values.

use std::collections::BTreeSet;

use insula_catalog::TenantRecord;
use insula_domain::{Isolation, Placement, RoleName, TenantStatus};
use insula_tenant_cluster::{SurveyedRole, TENANTS, role_settings};

/// What is wrong with a role, in sentences; empty where nothing is.
/// `password_fits` tells whether the role's verifier is that of the password
/// which the fronts present.
pub fn differences(
    tenant: &TenantRecord,
    placement: &Placement,
    role: &SurveyedRole,
    password_fits: bool,
) -> Vec<String> {
    let mut wrong = Vec::new();
    if !role.excess.is_empty() {
        wrong.push(format!("It is {}, which no tenant may be.", role.excess.join(", ")));
    }
    let may_log_in = !matches!(tenant.status, TenantStatus::Suspended | TenantStatus::Deleting);
    if role.login != may_log_in {
        let can = if role.login { "can" } else { "cannot" };
        wrong.push(format!("It {can} log in, and the tenant is {}.", tenant.status));
    }
    let groups = groups(placement.isolation, &role.name);
    if role.member_of.iter().map(String::as_str).collect::<BTreeSet<_>>() != groups {
        let wanted: Vec<_> = groups.into_iter().collect();
        wrong.push(format!(
            "It is a member of: {}; it must be of {} alone.",
            role.member_of.join(", "),
            wanted.join(", ")
        ));
    }
    let databases: Vec<_> = role.connects_to.iter().collect();
    if databases != [&placement.database] {
        let names: Vec<_> = databases.iter().map(|name| name.as_str()).collect();
        wrong.push(format!(
            "It may connect to: {}; it must to {} alone.",
            names.join(", "),
            placement.database
        ));
    }
    let own = tenant.own_schema();
    let with = |own| role_settings(placement.isolation, &placement.database, &placement.schema, own);
    // Where the tier lets it have none any more, those that it has are still found.
    let expected = with(own.as_ref().filter(|_| tenant.may_own()));
    if role.settings != expected && role.settings != with(own.as_ref()) {
        let more = role.settings.iter().filter(|setting| !expected.contains(setting));
        let less = expected.iter().filter(|setting| !role.settings.contains(setting));
        let list: Vec<_> = more.cloned().chain(less.map(|setting| format!("not {setting}"))).collect();
        wrong.push(format!(
            "Settings of its own: {}. insula tenant suspend and resume take them away.",
            list.join("; ")
        ));
    }
    if !password_fits {
        wrong.push(
            "Its password is not the one that the fronts present. insula tenant suspend and resume set it."
                .to_owned(),
        );
    }
    wrong
}

fn groups(isolation: Isolation, role: &RoleName) -> BTreeSet<&'static str> {
    let read_only = role.as_str().ends_with("_ro");
    let of_pool = match (isolation, read_only) {
        (Isolation::Pool, false) => Some(insula_tenant_cluster::schema::POOL_READ_WRITE),
        (Isolation::Pool, true) => Some(insula_tenant_cluster::schema::POOL_READ_ONLY),
        _ => None,
    };
    of_pool.into_iter().chain([TENANTS]).collect()
}
