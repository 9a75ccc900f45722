//! Boot settings: `insula.toml`, then the environment (`INSULA_HTTP__LISTEN`
//! is `listen` in `[http]`), one struct a section. Every fault names its key,
//! where it was set and what is wanted there, and never shows a secret.

mod change;
mod check;
mod check_backends;
mod environment;
mod error;
mod length;
mod list;
mod load;
mod role;
mod schema;
mod secret;
mod secret_files;
mod sections;
mod show;

pub use change::is_taken_at_once;
pub use environment::process_environment;
pub use error::{Fault, SettingsError};
pub use length::{HumanDuration, InvalidDuration};
pub use role::{Role, UnknownRole};
pub use secret::{REDACTED, SecretText};
pub use sections::{
    Catalog, Config, ConfigBackend, ConfigBackendKind, Http, Keys, LocalProvisioner, Log, LogFormat, Metrics,
    Operator, Otel, Pg, Provisioner, ProvisionerKind, Region, Server, Settings, Tenants, Tls, Workflow,
};
