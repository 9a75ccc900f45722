//! How an update becomes the next state: by revisions alone, so that updates
//! may come late, twice, or in the wrong order. Pure.

use std::collections::HashSet;
use std::sync::Arc;

use insula_domain::{Epoch, LoginId, TenantId};
use thiserror::Error;

use crate::route::{ClusterEndpoint, LoginRoute, Route};
use crate::snapshot::{Snapshot, TableKeys};

/// Rows of the catalog, each with its own revision.
#[derive(Debug, Clone, Default)]
pub struct Rows {
    /// Tenants; a deleted one is a row with that status.
    pub tenants: Vec<Route>,
    /// Database logins.
    pub logins: Vec<LoginRoute>,
    /// Clusters.
    pub endpoints: Vec<ClusterEndpoint>,
    /// The primary keys that tables of pools have for certain, where they were
    /// read.
    pub keys: Option<TableKeys>,
}

/// What is handed in.
#[derive(Debug, Clone)]
pub enum Update {
    /// All that there was at the revision. What the map has and this has not
    /// is removed, unless it is newer than the revision.
    Whole {
        /// The revision of the catalog at which the rows were read.
        revision: i64,
        /// All rows.
        rows: Rows,
    },
    /// What changed up to the revision.
    Delta {
        /// The revision of the catalog up to which the changes go.
        revision: i64,
        /// New and changed rows.
        rows: Rows,
        /// Logins that are gone since.
        removed_logins: Vec<LoginId>,
    },
}

/// A row that was not taken although its revision is newer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Refused {
    /// An epoch never goes back.
    #[error("tenant {tenant} is at epoch {known}; a row with the epoch {offered} was refused")]
    EpochWentBack {
        /// The tenant.
        tenant: TenantId,
        /// The epoch that the map has.
        known: Epoch,
        /// The epoch in the row.
        offered: Epoch,
    },
}

/// What an update did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Applied {
    /// Tenants of which a row, or a login's row, changed.
    pub tenants: HashSet<TenantId>,
    /// How many clusters changed.
    pub endpoints: usize,
    /// Rows that were not taken although newer: whoever feeds the map logs them.
    pub refused: Vec<Refused>,
}

/// The state after an update, and what the update did.
pub(crate) fn merge(before: &Snapshot, update: Update) -> (Snapshot, Applied) {
    let mut after = before.clone();
    let mut applied = Applied::default();
    let revision = match update {
        Update::Whole { revision, rows } => {
            remove_what_is_absent(&mut after, &mut applied, revision, &rows);
            take_rows(&mut after, &mut applied, rows);
            revision
        }
        Update::Delta { revision, rows, removed_logins } => {
            take_rows(&mut after, &mut applied, rows);
            for id in removed_logins {
                remove_login(&mut after, &mut applied, id, revision);
            }
            revision
        }
    };
    after.revision = after.revision.max(revision);
    (after, applied)
}

fn take_rows(after: &mut Snapshot, applied: &mut Applied, rows: Rows) {
    if let Some(keys) = rows.keys.filter(|keys| *keys != *after.keys) {
        after.keys = Arc::new(keys);
    }
    for endpoint in rows.endpoints {
        if after.endpoints.get(&endpoint.name).is_none_or(|known| known.revision < endpoint.revision) {
            after.endpoints.insert(endpoint.name.clone(), Arc::new(endpoint));
            applied.endpoints += 1;
        }
    }
    for route in rows.tenants {
        take_route(after, applied, route);
    }
    for login in rows.logins {
        take_login(after, applied, login);
    }
}

fn take_route(after: &mut Snapshot, applied: &mut Applied, route: Route) {
    if let Some(known) = after.routes.get(&route.tenant) {
        if route.revision <= known.revision {
            return;
        }
        let epochs = known.placement.as_ref().zip(route.placement.as_ref());
        if let Some((known, offered)) = epochs.map(|(known, offered)| (known.epoch, offered.epoch))
            && offered < known
        {
            applied.refused.push(Refused::EpochWentBack { tenant: route.tenant, known, offered });
            return;
        }
    }
    applied.tenants.insert(route.tenant);
    after.put_route(Arc::new(route));
}

fn take_login(after: &mut Snapshot, applied: &mut Applied, login: LoginRoute) {
    let known = after.logins.get(&login.id).map(|known| (known.revision, known.tenant));
    let removed = after.removed_logins.get(&login.id).copied();
    let newest = known.map(|(revision, _)| revision).max(removed);
    if newest.is_none_or(|newest| newest < login.revision) {
        applied.tenants.insert(login.tenant);
        applied.tenants.extend(known.map(|(_, tenant)| tenant));
        after.put_login(Arc::new(login));
    }
}

fn remove_login(after: &mut Snapshot, applied: &mut Applied, id: LoginId, revision: i64) {
    if after.logins.get(&id).is_some_and(|known| known.revision > revision) {
        return;
    }
    applied.tenants.extend(after.remove_login(id));
    let removed = after.removed_logins.entry(id).or_insert(revision);
    *removed = revision.max(*removed);
}

fn remove_what_is_absent(after: &mut Snapshot, applied: &mut Applied, revision: i64, rows: &Rows) {
    let tenants: HashSet<_> = rows.tenants.iter().map(|route| route.tenant).collect();
    let gone: Vec<_> = after
        .routes
        .values()
        .filter(|route| route.revision <= revision && !tenants.contains(&route.tenant))
        .map(|route| route.tenant)
        .collect();
    for tenant in gone {
        after.remove_route(tenant);
        applied.tenants.insert(tenant);
    }
    let logins: HashSet<_> = rows.logins.iter().map(|login| login.id).collect();
    let gone: Vec<_> = after.logins.keys().copied().filter(|id| !logins.contains(id)).collect();
    for id in gone {
        remove_login(after, applied, id, revision);
    }
    let clusters: HashSet<_> = rows.endpoints.iter().map(|endpoint| &endpoint.name).collect();
    let before = after.endpoints.len();
    after.endpoints.retain(|name, endpoint| endpoint.revision > revision || clusters.contains(name));
    applied.endpoints += before - after.endpoints.len();
}

#[cfg(test)]
pub(crate) mod tests;
