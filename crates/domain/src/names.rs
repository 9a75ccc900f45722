//! Names inside PostgreSQL, derived from the tenant id. They consist of
//! lower-case letters, digits and underscores alone, so that they never need
//! quoting, and fit PostgreSQL's 63 bytes.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::ids::{SchemaVersion, TenantId};
use crate::isolation::Isolation;

macro_rules! pg_name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
        #[serde(transparent)]
        #[schema(value_type = String)]
        pub struct $name(String);

        impl $name {
            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// A name read back from a store that wrote it.
            #[must_use]
            pub fn from_stored(text: String) -> Self {
                Self(text)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

pg_name! {
    /// A database role.
    RoleName
}
pg_name! {
    /// A schema in a database.
    SchemaName
}
pg_name! {
    /// A database on a server.
    DatabaseName
}

impl RoleName {
    /// The role as which every session of the tenant runs, in every model.
    #[must_use]
    pub fn of_tenant(id: TenantId) -> Self {
        Self(format!("tenant_{}", id.simple()))
    }

    /// The tenant's second role, which may only read.
    #[must_use]
    pub fn read_only_of_tenant(id: TenantId) -> Self {
        Self(format!("tenant_{}_ro", id.simple()))
    }

    /// The tenant whose role this is, read back from the name.
    #[must_use]
    pub fn tenant(&self) -> Option<TenantId> {
        let rest = self.0.strip_prefix("tenant_")?;
        let simple = rest.strip_suffix("_ro").unwrap_or(rest);
        (simple.len() == 32).then(|| simple.parse().ok()).flatten()
    }
}

impl SchemaName {
    /// The schema of the shared tables in a pool.
    #[must_use]
    pub fn pool() -> Self {
        Self("app".to_owned())
    }

    /// The schema of a tenant that has one of its own in a shared database.
    #[must_use]
    pub fn of_tenant(id: TenantId) -> Self {
        Self(format!("t_{}", id.simple()))
    }

    /// The schema in a database that is the tenant's alone: PostgreSQL's own
    /// default, so that the database looks as if Insula were not there.
    #[must_use]
    pub fn of_silo() -> Self {
        Self("public".to_owned())
    }
}

impl SchemaName {
    /// The schema in which a tenant may make objects of its own, where its tier
    /// lets it. Where tenants share tables there is none.
    #[must_use]
    pub fn of_own_objects(id: TenantId, isolation: Isolation) -> Option<Self> {
        match isolation {
            Isolation::Pool => None,
            Isolation::Schema => Some(Self(format!("t_{}_own", id.simple()))),
            Isolation::Database | Isolation::Cluster => Some(Self("own".to_owned())),
        }
    }
}

impl DatabaseName {
    /// The database of the shared tables on a cluster.
    #[must_use]
    pub fn pool() -> Self {
        Self("insula_pool".to_owned())
    }

    /// The database of the schemas on a cluster.
    #[must_use]
    pub fn schemas() -> Self {
        Self("insula_schemas".to_owned())
    }

    /// The template from which tenants' databases are cloned, one a version.
    #[must_use]
    pub fn template(version: SchemaVersion) -> Self {
        Self(format!("insula_template_{version}"))
    }

    /// The database of a tenant that has one of its own.
    #[must_use]
    pub fn of_tenant(id: TenantId) -> Self {
        Self(format!("t_{}", id.simple()))
    }

    /// The database of a tenant that has a server of its own.
    #[must_use]
    pub fn of_cluster() -> Self {
        Self("app".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_names_its_tenant_and_nothing_else_does() {
        let id: TenantId = "0190163d-8694-739b-aea5-966c26f8ad91".parse().unwrap();
        assert_eq!(RoleName::of_tenant(id).as_str(), "tenant_0190163d8694739baea5966c26f8ad91");
        assert_eq!(RoleName::of_tenant(id).tenant(), Some(id));
        assert_eq!(RoleName::read_only_of_tenant(id).tenant(), Some(id));
        for other in ["postgres", "tenant_", "tenant_x", "tenant_0190163d8694739baea5966c26f8ad91x"] {
            assert_eq!(RoleName::from_stored(other.to_owned()).tenant(), None, "{other}");
        }
    }
}
