//! Where tenants are and what they are: from the route map, which is pushed.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use insula_config_model::{Lineage, Scope};
use insula_domain::{TenantId, TenantStatus};
use insula_problem::{Code, Problem};
use insula_route_map::{Route, RouteMap, Snapshot};

use crate::caller::Caller;

/// The tenants.
#[derive(Debug, Clone)]
pub struct Directory {
    routes: Arc<RouteMap>,
}

/// A scope that a caller has named, or the tenant whose view is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Named {
    /// A tenant.
    Tenant(Lineage),
    /// The platform, a region or a tier.
    Provider(Scope),
}

impl Named {
    /// The scope itself.
    #[must_use]
    pub fn scope(&self) -> Scope {
        match self {
            Self::Tenant(lineage) => Scope::Tenant(lineage.tenant),
            Self::Provider(scope) => scope.clone(),
        }
    }
}

fn no_tenant() -> Problem {
    Problem::new(Code::TenantNotFound, "There is no such tenant.")
}

impl Directory {
    /// By a map that is fed by somebody else.
    #[must_use]
    pub fn new(routes: Arc<RouteMap>) -> Self {
        Self { routes }
    }

    /// The map.
    #[must_use]
    pub fn routes(&self) -> &Arc<RouteMap> {
        &self.routes
    }

    /// What a tenant sees is decided by; none where it is gone.
    #[must_use]
    pub fn lineage(&self, tenant: TenantId) -> Option<Lineage> {
        let snapshot = self.routes.snapshot();
        lineage(&snapshot, snapshot.route(tenant).filter(|route| is_there(route))?)
    }

    /// All tenants that are there.
    #[must_use]
    pub fn tenants(&self) -> Vec<TenantId> {
        let snapshot = self.routes.snapshot();
        snapshot.routes().filter(|route| is_there(route)).map(|route| route.tenant).collect()
    }

    /// The scope that a caller names: its own where it names none. Another
    /// tenant's is answered like one that there is not.
    ///
    /// # Errors
    /// `tenant_not_found`, `invalid_request`; `unavailable` before the first
    /// state of the map has come.
    pub fn named(&self, caller: &Caller, text: &str) -> Result<Named, Problem> {
        if !self.routes.is_ready() {
            return Err(Problem::new(Code::Unavailable, "The tenants have not been read yet.").retry_after(1));
        }
        let snapshot = self.routes.snapshot();
        let find = |text: &str| {
            let by_id = text.parse::<TenantId>().ok().and_then(|id| snapshot.route(id));
            by_id.or_else(|| snapshot.route_by_slug(text)).filter(|route| is_there(route))
        };
        let named = text.strip_prefix("tenant/").map(find);
        let route = match (caller.tenant(), named) {
            (Some(own), None) if text.is_empty() => snapshot.route(own).filter(|route| is_there(route)),
            (Some(own), Some(named)) => named.filter(|route| route.tenant == own),
            (Some(_), None) => None,
            (None, Some(named)) => named,
            (None, None) if text.is_empty() => {
                let detail = "An operator names the scope: platform, region/NAME, tier/NAME or tenant/SLUG.";
                return Err(Problem::new(Code::InvalidRequest, detail).at("/scope", "expected a scope"));
            }
            (None, None) => {
                let invalid = |error: insula_config_model::InvalidScope| {
                    Problem::new(Code::InvalidRequest, format!("{error}.")).at("/scope", "expected a scope")
                };
                return text.parse().map(Named::Provider).map_err(invalid);
            }
        };
        let route = route.ok_or_else(no_tenant)?;
        lineage(&snapshot, route).map(Named::Tenant).ok_or_else(no_tenant)
    }

    /// Whether a scope may be written now.
    ///
    /// # Errors
    /// `tenant_suspended`, or `tenant_not_found`.
    pub fn check_writable(&self, named: &Named) -> Result<(), Problem> {
        let Named::Tenant(lineage) = named else { return Ok(()) };
        match self.routes.snapshot().route(lineage.tenant).map(|route| route.status) {
            Some(TenantStatus::Suspended) => {
                let detail = "The tenant is suspended: its configuration is read, and not written.";
                Err(Problem::new(Code::TenantSuspended, detail))
            }
            Some(TenantStatus::Deleting | TenantStatus::Deleted) | None => Err(no_tenant()),
            Some(_) => Ok(()),
        }
    }
}

fn is_there(route: &Route) -> bool {
    !matches!(route.status, TenantStatus::Deleting | TenantStatus::Deleted)
}

fn lineage(snapshot: &Snapshot, route: &Route) -> Option<Lineage> {
    let ancestors = snapshot.lineage(route.tenant).skip(1).filter(|above| above.region == route.region);
    Some(Lineage {
        tenant: route.tenant,
        region: route.region.clone(),
        tier: route.tier.clone(),
        ancestors: ancestors.map(|above| above.tenant).collect(),
    })
}

/// A mark of what decides a tenant's view beside values: a client that comes
/// back with another one has to take a snapshot.
#[must_use]
pub fn mark(lineage: &Lineage, tags: &insula_config_model::TagTable) -> String {
    let mut hasher = DefaultHasher::new();
    lineage.scopes().iter().for_each(|scope| scope.to_string().hash(&mut hasher));
    for (prefix, _) in tags.iter().filter(|(_, tag)| !tag.inherited) {
        prefix.hash(&mut hasher);
    }
    format!("{:016x}", hasher.finish())
}
