//! The app schema on a cluster: what has to be there before it, its versions
//! in both forms, rights, and the audit that proves from PostgreSQL's own
//! catalogs what is really there.
//!
//! Which version is applied stands in the comment of the schema that it is
//! applied to. It is written by the transaction that applies the version, and
//! so is true after any crash; it is no table in a tenant's own database, and
//! a clone of a template has it too.

mod apply;
mod audit;
mod audit_keys;
mod audit_pool;
mod batch;
mod channels;
mod concurrent;
mod copy_targets;
mod data;
mod failure;
mod fingerprint;
mod harden;
mod owner;
mod plain_text;
mod planted;
mod rights;
mod row_conditions;
mod silo_rows;
mod support;
mod version;

pub(crate) use apply::apply_as_owner;
pub use audit::{Finding, audit_silo};
pub use audit_pool::audit_pool;
pub use concurrent::apply_plain;
pub use copy_targets::COPY_SCHEMA;
pub use data::{HeldPool, apply_pool_data, enrol_without_rows, hold_pool, pool_versions, try_new_tenant};
pub use failure::{RowsDoNotFit, said_by_server};
pub use fingerprint::{SchemaFingerprint, fingerprint};
pub use harden::harden_database;
pub(crate) use owner::make_role;
pub use owner::{SILO_OWNER, owner_of};
pub use rights::grant_rights;
pub use row_conditions::{Offender, Violation, apply_pool, find_offenders, validate_pool};
pub use silo_rows::with_rows;
pub use support::{
    POOL_OWNER, POOL_READ_ONLY, POOL_READ_WRITE, POOL_TEMPLATE, create_group_roles, install_pool,
    install_support, pool_template_tenant,
};
pub use version::applied_version;
