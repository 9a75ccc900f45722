//! The control plane: the admin API over HTTP, the workflows of tenants and of
//! the app schema, and the doctor. Handlers decide in one transaction of the
//! catalog; whatever takes longer is a workflow.

mod api_keys;
mod clusters;
mod control;
pub mod dedicated;
pub mod doctor;
mod front;
pub mod http;
pub mod janitor;
mod logins;
pub mod moves;
mod operations;
mod own_objects;
mod placements;
mod provisioner;
mod reference;
pub mod registration;
pub mod rekey;
mod repeats;
pub mod schema;
pub mod tenants;
mod tiers;
pub mod workflows;

pub use clusters::{ClusterDirectory, percent};
pub use control::{Control, ControlSettings};
pub use front::{FrontView, Look};
pub use operations::Operations;
pub use provisioner::{ClusterProvisioner, ProvisionedCluster};
