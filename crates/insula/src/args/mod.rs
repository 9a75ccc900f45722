//! The command line, as its user types it. Every help text has an example.

mod attack;
mod clusters;
mod config;
mod config_rollout;
mod config_tags;
#[cfg(test)]
mod config_tests;
mod credentials;
mod keys;
mod moves;
mod offers;
mod operations;
mod pg;
mod schema;
mod serve;
mod tenants;

use clap::{Args, Parser, Subcommand, ValueEnum};

pub use attack::AttackArgs;
pub use clusters::{ClusterCommand, RegionCommand};
pub use config::{Acknowledge, ConfigCommand, Place, Said};
pub use config_rollout::{ConfigRolloutCommand, Start};
pub use config_tags::ConfigTagsCommand;
pub use credentials::{KeyCommand, LoginCommand};
pub use keys::{MasterKeyCommand, OperatorCommand};
pub use moves::{MoveCommand, MoveTenant, OpenTransactions};
pub use offers::{Limit, PlanCommand, SetPlan, TierCommand};
pub use operations::{AuditCommand, OperationCommand};
pub use pg::{PgCommand, PgFilter, PgShow};
pub use schema::{RolloutCommand, SchemaCommand};
pub use serve::{Demo, Serve, SettingsCommand, SettingsFile, Up};
pub use tenants::TenantCommand;

/// Write your application for one tenant, run it for ten thousand.
#[derive(Debug, Parser)]
#[command(
    name = "insula",
    version,
    propagate_version = true,
    after_help = "Examples:\n  \
        insula up                                               start everything on this machine\n  \
        insula tenant create acme --tier free --region us-east-1\n  \
        psql \"$(insula tenant url acme)\"                        work as the tenant"
)]
pub struct Cli {
    #[command(flatten)]
    pub connection: Connection,
    #[command(subcommand)]
    pub command: Command,
}

/// Where the server is, and how to print.
#[derive(Debug, Clone, Args)]
pub struct Connection {
    /// The server; else INSULA_URL, else .insula/client.toml of this folder or one above.
    #[arg(long, global = true, env = "INSULA_URL", hide_env_values = true, value_name = "URL")]
    pub url: Option<String>,
    /// The operator's token; else INSULA_TOKEN, else .insula/client.toml.
    #[arg(long, global = true, env = "INSULA_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    pub token: Option<String>,
    /// How to print: a table, which is tab-separated where it is not read on a terminal, or JSON.
    #[arg(long, short, global = true, value_enum, default_value_t = Format::Table)]
    pub output: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Table,
    Json,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start everything on this machine: PostgreSQL servers, API, front.
    Up(Up),
    /// Run roles of Insula in production, by settings.
    Serve(Serve),
    /// Have the `serve` process of these settings read them again, and its certificates.
    #[command(
        after_help = "Example:\n  insula reload --config /etc/insula.toml\n\nWhat it takes over at once: docs/guides/production.md"
    )]
    Reload(SettingsFile),
    /// Check and show the settings of `serve`.
    #[command(subcommand)]
    Settings(SettingsCommand),
    /// Create, show, move, suspend, resume and delete tenants.
    #[command(subcommand)]
    Tenant(TenantCommand),
    /// Moves of living tenants: list, show, roll back, complete, cancel.
    #[command(subcommand)]
    Move(MoveCommand),
    /// Apply the app schema and see where it is.
    #[command(subcommand)]
    Schema(SchemaCommand),
    /// Values of the configuration: set, show, watch, roll back.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Database logins of a tenant.
    #[command(subcommand)]
    Login(LoginCommand),
    /// API keys of a tenant.
    #[command(subcommand)]
    Key(KeyCommand),
    /// Plans: the limits that are sold.
    #[command(subcommand)]
    Plan(PlanCommand),
    /// Tiers: isolation model, user pool and plan under one name.
    #[command(subcommand)]
    Tier(TierCommand),
    /// Clusters: the PostgreSQL servers that hold tenants' rows.
    #[command(subcommand)]
    Cluster(ClusterCommand),
    /// Regions and their groups.
    #[command(subcommand)]
    Region(RegionCommand),
    /// The PostgreSQL front: its clients, backends and tenants.
    #[command(subcommand)]
    Pg(PgCommand),
    /// Long operations: list, show, resume a stuck one.
    #[command(subcommand)]
    Operation(OperationCommand),
    /// The audit.
    #[command(subcommand)]
    Audit(AuditCommand),
    /// Operators' tokens, on the catalog itself.
    #[command(subcommand)]
    Operator(OperatorCommand),
    /// Master keys: make, rotate.
    #[command(subcommand)]
    MasterKey(MasterKeyCommand),
    /// Check the invariants on the live system; exit 1 where something is wrong.
    #[command(after_help = "Example:\n  insula doctor --output json")]
    Doctor,
    /// Try everything known that one tenant could try against another; exit 3 where something comes of it.
    Attack(AttackArgs),
    /// Print a completion script for a shell.
    #[command(after_help = "Example:\n  insula completions bash > /etc/bash_completion.d/insula")]
    Completions {
        /// Which shell.
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
    /// Print the description of the HTTP API (OpenAPI 3.1).
    #[command(hide = true)]
    Openapi,
}

#[derive(Debug, Clone, Copy, Args)]
pub struct Wait {
    /// Do not wait for the end; print the operation.
    #[arg(long)]
    pub no_wait: bool,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn every_command_can_be_read() {
        super::Cli::command().debug_assert();
    }
}
