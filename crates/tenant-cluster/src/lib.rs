//! Tenant clusters: the PostgreSQL servers that hold tenants' rows. This crate
//! has the only SQL on them: it checks and prepares a server, makes and removes
//! roles, schemas and databases, brings the app schema, fences, and surveys
//! what is really there.

mod access;
mod admission;
pub mod blueprint;
mod disk;
mod fence;
mod inspect;
pub mod moving;
mod neighbours;
mod own;
mod prepare;
mod purge;
mod roles;
pub mod schema;
mod scratch;
mod spaces;
mod survey;

use insula_problem::Problem;
use insula_sql_store::{Store, sql_problem};

pub use access::{ClusterAccess, Connection, Maintenance, Through};
pub use admission::{Rule, admits_tenants_from_anywhere, read_rules};
pub use disk::{DiskRoom, disk_room};
pub use fence::{end_idle_holders, fence, unfence};
pub use inspect::{Inspection, inspect};
pub use own::{Inventory, OwnSpace, audit_own, dependents, explain, own_objects, settle_own};
pub use prepare::{prepare_dedicated, prepare_shared, publish_template};
pub use purge::purge_pool_rows;
pub use roles::{
    NewRole, TENANTS, TenantRoles, create_roles, drop_role, drop_roles, enroll_tenants, role_settings,
    set_passwords,
};
pub use scratch::{Scratch, drop_abandoned_scratch};
pub use spaces::{
    create_database, create_schema, database_exists, drop_database, drop_schemas, open_database,
    schema_exists,
};
pub use survey::{Survey, SurveyedRole, survey, survey_pool_tenants, survey_schemas, survey_short_sequences};

/// The problem that an error of a cluster's driver is.
pub(crate) fn db(error: tokio_postgres::Error) -> Problem {
    sql_problem(Store::Cluster, error)
}

/// A text as an SQL literal. Names are never quoted: their types allow only
/// lower-case letters, digits and underscores.
pub(crate) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
