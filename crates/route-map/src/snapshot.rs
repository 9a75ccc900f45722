//! One immutable state of the map, with its lookups.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use insula_domain::{ClusterName, LoginId, LoginName, Slug, TenantId, TenantStatus};

use crate::hold::Hold;
use crate::route::{ClusterEndpoint, LoginRoute, Route};

/// Tenants above one another that are walked at most: a cycle, which the
/// catalog never makes, then ends too.
pub const TREE_DEPTH_MAX: usize = 32;

/// Columns of primary keys by table.
pub type TableKeys = BTreeMap<String, Vec<String>>;

/// One immutable state of the map.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    pub(crate) revision: i64,
    pub(crate) routes: HashMap<TenantId, Arc<Route>>,
    /// Tenants that are held; only a few are at any time.
    pub(crate) holds: BTreeMap<TenantId, Hold>,
    /// Tenants that are about to go somewhere; as few.
    pub(crate) leaving: BTreeSet<TenantId>,
    /// Tenants that are not deleted, so that a slug may be given out again. The
    /// next state has the same one where nothing of it changes, since names cost
    /// more to copy than what they stand for.
    pub(crate) slugs: Arc<HashMap<Slug, TenantId>>,
    pub(crate) logins: HashMap<LoginId, Arc<LoginRoute>>,
    pub(crate) login_names: Arc<HashMap<LoginName, LoginId>>,
    pub(crate) endpoints: HashMap<ClusterName, Arc<ClusterEndpoint>>,
    /// When removed logins were removed, so that nothing older revives them.
    pub(crate) removed_logins: HashMap<LoginId, i64>,
    pub(crate) keys: Arc<TableKeys>,
}

impl Snapshot {
    /// The newest revision of the catalog that is in here.
    #[must_use]
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// All tenants, deleted ones among them as far as they are remembered.
    pub fn routes(&self) -> impl Iterator<Item = &Arc<Route>> {
        self.routes.values()
    }

    /// The tenants whose transactions are to wait.
    pub fn holds(&self) -> impl Iterator<Item = (TenantId, Hold)> {
        self.holds.iter().map(|(tenant, hold)| (*tenant, *hold))
    }

    /// The tenants that are about to go somewhere.
    pub fn leaving(&self) -> impl Iterator<Item = &Arc<Route>> {
        self.leaving.iter().filter_map(|tenant| self.routes.get(tenant))
    }

    /// A tenant by its id.
    #[must_use]
    pub fn route(&self, tenant: TenantId) -> Option<&Arc<Route>> {
        self.routes.get(&tenant)
    }

    /// A tenant by its slug; deleted ones have none.
    #[must_use]
    pub fn route_by_slug(&self, slug: &str) -> Option<&Arc<Route>> {
        self.routes.get(self.slugs.get(slug)?)
    }

    /// A login by the name that the client gives.
    #[must_use]
    pub fn login(&self, name: &str) -> Option<&Arc<LoginRoute>> {
        self.logins.get(self.login_names.get(name)?)
    }

    /// A login by its id.
    #[must_use]
    pub fn login_by_id(&self, id: LoginId) -> Option<&Arc<LoginRoute>> {
        self.logins.get(&id)
    }

    /// The primary keys that tables of pools have for certain, whichever version
    /// of the app schema a pool has, as their developer wrote them.
    #[must_use]
    pub fn keys(&self) -> &Arc<TableKeys> {
        &self.keys
    }

    /// How a cluster is reached.
    #[must_use]
    pub fn endpoint(&self, cluster: &ClusterName) -> Option<&Arc<ClusterEndpoint>> {
        self.endpoints.get(cluster)
    }

    /// The tenant at the end of a path of slugs that begins at a child of
    /// `ancestor`; the empty path is `ancestor` itself. `None` where one of the
    /// slugs is not a child of the one before it.
    pub fn descendant<'path>(
        &self,
        ancestor: TenantId,
        path: impl IntoIterator<Item = &'path str>,
    ) -> Option<&Arc<Route>> {
        let mut here = self.route(ancestor)?;
        for (depth, slug) in path.into_iter().enumerate() {
            let child = self.route_by_slug(slug)?;
            if child.parent != Some(here.tenant) || depth >= TREE_DEPTH_MAX {
                return None;
            }
            here = child;
        }
        Some(here)
    }

    /// The tenant and those above it, from the bottom up.
    pub fn lineage(&self, tenant: TenantId) -> impl Iterator<Item = &Arc<Route>> {
        let first = self.route(tenant);
        std::iter::successors(first, |route| self.route(route.parent?)).take(TREE_DEPTH_MAX + 1)
    }

    /// Whether `tenant` is `ancestor` or stands below it.
    #[must_use]
    pub fn is_within(&self, tenant: TenantId, ancestor: TenantId) -> bool {
        self.lineage(tenant).any(|route| route.tenant == ancestor)
    }

    pub(crate) fn put_route(&mut self, route: Arc<Route>) {
        let slug = (route.status != TenantStatus::Deleted).then_some(&route.slug);
        let before = self.routes.get(&route.tenant).map(|old| &old.slug);
        let before = before.filter(|old| self.slugs.get(*old) == Some(&route.tenant));
        if before != slug {
            let before = before.cloned();
            let slugs = Arc::make_mut(&mut self.slugs);
            before.map(|before| slugs.remove(&before));
            slugs.extend(slug.map(|slug| (slug.clone(), route.tenant)));
        }
        match route.hold {
            Some(hold) => self.holds.insert(route.tenant, hold),
            None => self.holds.remove(&route.tenant),
        };
        match route.goes_to {
            Some(_) => self.leaving.insert(route.tenant),
            None => self.leaving.remove(&route.tenant),
        };
        self.routes.insert(route.tenant, route);
    }

    pub(crate) fn remove_route(&mut self, tenant: TenantId) {
        if let Some(old) = self.routes.remove(&tenant)
            && self.slugs.get(&old.slug) == Some(&tenant)
        {
            Arc::make_mut(&mut self.slugs).remove(&old.slug);
        }
        self.holds.remove(&tenant);
        self.leaving.remove(&tenant);
    }

    pub(crate) fn put_login(&mut self, login: Arc<LoginRoute>) {
        self.forget_login_name(login.id);
        Arc::make_mut(&mut self.login_names).insert(login.name.clone(), login.id);
        self.removed_logins.remove(&login.id);
        self.logins.insert(login.id, login);
    }

    /// Removes a login; its tenant, where there was one to remove.
    pub(crate) fn remove_login(&mut self, id: LoginId) -> Option<TenantId> {
        self.forget_login_name(id);
        self.logins.remove(&id).map(|login| login.tenant)
    }

    fn forget_login_name(&mut self, id: LoginId) {
        if let Some(old) = self.logins.get(&id)
            && self.login_names.get(&old.name) == Some(&id)
        {
            let name = old.name.clone();
            Arc::make_mut(&mut self.login_names).remove(&name);
        }
    }
}
