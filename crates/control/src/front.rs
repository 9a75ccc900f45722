//! The PostgreSQL front of this process, as the control plane looks at it. The
//! two do not know each other: who has both hands this in.

use std::fmt;
use std::sync::Arc;

use insula_api::{PgBackend, PgClient, PgList, PgTenant};
use insula_domain::TenantId;

/// Shows the first so many of what the front has, of one tenant or of all.
pub type Look<T> = Arc<dyn Fn(Option<TenantId>, usize) -> PgList<T> + Send + Sync>;

/// What can be seen of a front.
#[derive(Clone)]
pub struct FrontView {
    /// Its clients.
    pub clients: Look<PgClient>,
    /// Its backends.
    pub backends: Look<PgBackend>,
    /// Its tenants.
    pub tenants: Look<PgTenant>,
}

impl fmt::Debug for FrontView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FrontView")
    }
}
