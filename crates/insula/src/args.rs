//! The command line, as its user types it. Every help text has an example.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use insula_domain::{PoolMode, RolloutPlacementStatus};

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
    /// Check and show the settings of `serve`.
    #[command(subcommand)]
    Settings(SettingsCommand),
    /// Create, show, suspend, resume and delete tenants.
    #[command(subcommand)]
    Tenant(TenantCommand),
    /// Apply the app schema and see where it is.
    #[command(subcommand)]
    Schema(SchemaCommand),
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

#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Examples:\n  insula attack --as acme --against globex\n  insula attack --as acme --against globex --only protocol --output json\n  insula attack --list\n\nWhat it touches: docs/guides/attack.md"
)]
pub struct AttackArgs {
    /// The tenant that tries.
    #[arg(long = "as", value_name = "SLUG", required_unless_present = "list")]
    pub attacker: Option<String>,
    /// The tenant whose isolation is tried.
    #[arg(long, value_name = "SLUG", required_unless_present = "list")]
    pub against: Option<String>,
    /// One group or one attempt alone.
    #[arg(long, value_name = "GROUP|NAME")]
    pub only: Option<String>,
    /// The table of the application to use; else the first one in which the second tenant has a text that the first
    /// has not.
    #[arg(long, value_name = "TABLE")]
    pub table: Option<String>,
    /// With logins of this pool mode alone; else of both, one after the other.
    #[arg(long, value_name = "MODE")]
    pub pool_mode: Option<PoolMode>,
    /// Show the attempts, and make none.
    #[arg(long)]
    pub list: bool,
}

#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Examples:\n  insula up\n  insula up --port-base 8400 --demo none\n  insula up --fresh    throw away all data first"
)]
pub struct Up {
    /// Where the data is.
    #[arg(long, default_value = ".insula", value_name = "DIR")]
    pub data_dir: PathBuf,
    /// The first of the ports: HTTP on it, the PostgreSQL front 32 above, servers from 40 above.
    #[arg(long, default_value_t = 7400, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1024..=65000))]
    pub port_base: u16,
    /// Throw away what is in the data folder first.
    #[arg(long)]
    pub fresh: bool,
    /// What to start with.
    #[arg(long, value_enum, default_value_t = Demo::Shop)]
    pub demo: Demo,
    /// Also write the ready file here.
    #[arg(long, value_name = "FILE")]
    pub ready_file: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Demo {
    /// The app schema of a small shop.
    Shop,
    /// No app schema.
    None,
}

#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Examples:\n  insula serve --config /etc/insula.toml\n  insula serve --roles control,worker\n  INSULA_CATALOG__URL=postgres://… insula serve --roles pg-proxy"
)]
pub struct Serve {
    /// The settings file; without one, the environment alone.
    #[arg(long, short, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The roles of this process, instead of those in the settings.
    #[arg(long, value_delimiter = ',', value_name = "ROLE")]
    pub roles: Vec<String>,
}

#[derive(Debug, Subcommand)]
pub enum SettingsCommand {
    /// Check settings; exit 1 with everything that is wrong.
    Check(SettingsFile),
    /// Show the settings that are in force, without secrets.
    Show(SettingsFile),
    /// Print the JSON Schema of the settings.
    Schema,
}

#[derive(Debug, Clone, Args)]
#[command(after_help = "Example:\n  insula settings check --config /etc/insula.toml")]
pub struct SettingsFile {
    /// The settings file; without one, the environment alone.
    #[arg(long, short, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub enum TenantCommand {
    /// Create a tenant.
    #[command(
        after_help = "Examples:\n  insula tenant create acme --tier free --region us-east-1\n  insula tenant create acme-fr --tier standard --region eu-west-1 --parent acme"
    )]
    Create {
        /// Its short name: lower-case letters, digits and dashes.
        slug: String,
        /// What it buys; insula tier list shows them.
        #[arg(long)]
        tier: String,
        /// Its home; insula region list shows them.
        #[arg(long)]
        region: String,
        /// The region group in which its data stays.
        #[arg(long, value_name = "GROUP")]
        residency: Option<String>,
        /// The tenant above it.
        #[arg(long, value_name = "SLUG")]
        parent: Option<String>,
        /// Its name for people.
        #[arg(long, value_name = "TEXT")]
        name: Option<String>,
        /// Sent again with the same key, the call makes nothing new.
        #[arg(long, value_name = "K")]
        idempotency_key: Option<String>,
        #[command(flatten)]
        wait: Wait,
    },
    /// Change a tenant's name, residency, tier or parent.
    #[command(after_help = "Example:\n  insula tenant set acme --residency global")]
    Set {
        /// Slug or id.
        slug: String,
        /// The region group in which its data stays.
        #[arg(long, value_name = "GROUP")]
        residency: Option<String>,
        /// Its name for people.
        #[arg(long, value_name = "TEXT")]
        name: Option<String>,
        /// A tier of the same isolation model.
        #[arg(long)]
        tier: Option<String>,
        /// The tenant above it; an empty text for none.
        #[arg(long, value_name = "SLUG")]
        parent: Option<String>,
    },
    /// List tenants.
    #[command(after_help = "Example:\n  insula tenant list --region eu-west-1 --output json")]
    List {
        /// Only those in this status.
        #[arg(long)]
        status: Option<String>,
        /// Only those of this region.
        #[arg(long)]
        region: Option<String>,
        /// Only those of this tier.
        #[arg(long)]
        tier: Option<String>,
        /// Only the children of this tenant.
        #[arg(long, value_name = "SLUG")]
        parent: Option<String>,
    },
    /// Show a tenant.
    #[command(after_help = "Example:\n  insula tenant show acme")]
    Show {
        /// Slug or id.
        slug: String,
    },
    /// End a tenant's sessions and refuse new ones.
    #[command(after_help = "Example:\n  insula tenant suspend acme")]
    Suspend {
        /// Slug or id.
        slug: String,
        #[command(flatten)]
        wait: Wait,
    },
    /// Let a suspended tenant in again.
    #[command(after_help = "Example:\n  insula tenant resume acme")]
    Resume {
        /// Slug or id.
        slug: String,
        #[command(flatten)]
        wait: Wait,
    },
    /// Delete a tenant: suspended now, purged after the retention time.
    #[command(
        after_help = "Examples:\n  insula tenant delete acme\n  insula tenant delete acme --retention 30d\n  insula tenant delete acme --retention 0    purge at once"
    )]
    Delete {
        /// Slug or id.
        slug: String,
        /// How long the data is kept, for example 30d or 0; the server's setting where it is not given.
        #[arg(long, value_name = "TIME", value_parser = parse_retention)]
        retention: Option<u64>,
        #[command(flatten)]
        wait: Wait,
    },
    /// Print a postgres:// URL for the PostgreSQL front.
    #[command(
        after_help = "Examples:\n  psql \"$(insula tenant url acme)\"\n  insula tenant url acme --login reporting --read-only    makes the login; its secret is shown once"
    )]
    Url {
        /// Slug or id.
        slug: String,
        /// Make a login of this name, instead of the default one.
        #[arg(long, value_name = "NAME")]
        login: Option<String>,
        /// The sessions may only read.
        #[arg(long)]
        read_only: bool,
    },
    /// Print a URL with a signed token that is good for five minutes.
    #[command(after_help = "Example:\n  psql \"$(insula tenant token acme --read-only)\"")]
    Token {
        /// Slug or id.
        slug: String,
        /// The sessions may only read.
        #[arg(long)]
        read_only: bool,
    },
}

#[derive(Debug, Clone, Copy, Args)]
pub struct Wait {
    /// Do not wait for the end; print the operation.
    #[arg(long)]
    pub no_wait: bool,
}

/// A time as people write it: `30d`, `12h`, `15m`, `90s`, `0`.
fn parse_retention(text: &str) -> Result<u64, String> {
    let wrong = || "a time like 30d, 12h, 15m, 90s or 0".to_owned();
    let (digits, factor) = match text.chars().last().ok_or_else(wrong)? {
        'd' => (&text[..text.len() - 1], 86_400),
        'h' => (&text[..text.len() - 1], 3_600),
        'm' => (&text[..text.len() - 1], 60),
        's' => (&text[..text.len() - 1], 1),
        _ => (text, 1),
    };
    digits.parse::<u64>().ok().and_then(|number| number.checked_mul(factor)).ok_or_else(wrong)
}

#[derive(Debug, Subcommand)]
pub enum SchemaCommand {
    /// Apply a folder of numbered SQL files as the app schema.
    #[command(
        after_help = "Examples:\n  insula schema apply examples/shop/schema\n  insula schema apply schema --canary acme --canary globex --wave-size 20"
    )]
    Apply {
        /// The folder: 0001_first.sql, 0002_second.sql …
        dir: PathBuf,
        /// Placements of a wave, at the most; 100 where it is not given.
        #[arg(long, value_name = "N")]
        wave_size: Option<u32>,
        /// A tenant that gets new versions first; where one fails the rollout pauses. May be repeated.
        #[arg(long, value_name = "SLUG")]
        canary: Vec<String>,
        #[command(flatten)]
        wait: Wait,
    },
    /// Read a folder as `apply` would, and tell what breaks the application that still runs.
    #[command(after_help = "Example:\n  insula schema check schema")]
    Check {
        /// The folder.
        dir: PathBuf,
    },
    /// Show the versions, and the placements that are behind.
    #[command(after_help = "Examples:\n  insula schema status\n  insula schema status --drift --tenant acme")]
    Status {
        /// Read the tables of the tenants that have their own: what differs from their version, and what they made
        /// themselves.
        #[arg(long)]
        drift: bool,
        /// With --drift: this tenant alone.
        #[arg(long, requires = "drift")]
        tenant: Option<String>,
    },
    /// Show where a version failed, with what PostgreSQL said of the rows there.
    ///
    /// That holds values of tenants' rows: each showing is in the audit.
    Failures,
    /// Rollouts: list, show, pause, resume, try again.
    #[command(subcommand)]
    Rollout(RolloutCommand),
    /// Print the URL of the blueprint, for your migration tool; the first time it is made.
    #[command(after_help = "Example:\n  DATABASE_URL=$(insula schema blueprint-url) alembic upgrade head")]
    BlueprintUrl {
        /// The cluster to make it on; without, the oldest one that tenants share.
        #[arg(long)]
        cluster: Option<String>,
    },
    /// Remove the blueprint and make it anew from the versions.
    BlueprintRebuild {
        /// Changes that were not captured may be lost.
        #[arg(long)]
        discard: bool,
    },
    /// Write what was done on the blueprint as the next version's file.
    #[command(after_help = "Example:\n  insula schema capture --name add_reviews --dir schema")]
    Capture {
        /// What the file is called behind its number.
        #[arg(long)]
        name: Option<String>,
        /// The folder of the app schema.
        #[arg(long, env = "INSULA_SCHEMA_DIR", default_value = "schema")]
        dir: PathBuf,
        /// Leave out the rows of these tables.
        #[arg(long, value_delimiter = ',', value_name = "TABLE")]
        without_data: Vec<String>,
        /// Take captures that were not applied back, and capture them again.
        #[arg(long)]
        again: bool,
        /// Write the file although something in it is refused, to edit it.
        #[arg(long)]
        force: bool,
    },
    /// Read the clusters' catalogs and prove the form of every placement; exit 1 where it fails.
    Audit,
}

#[derive(Debug, Subcommand)]
pub enum RolloutCommand {
    /// List rollouts, the newest first.
    List,
    /// Show a rollout and where each placement is in it.
    #[command(after_help = "Example:\n  insula schema rollout show --status failed")]
    Show {
        /// Id; the newest where it is not given.
        id: Option<String>,
        /// Placements of this status alone: waiting, running, done, failed.
        #[arg(long)]
        status: Option<RolloutPlacementStatus>,
    },
    /// Pause a rollout: what is being brought is brought to its end, and nothing more is begun.
    Pause {
        /// Id; the newest where it is not given.
        id: Option<String>,
    },
    /// Go on with a rollout that is paused.
    Resume {
        /// Id; the newest where it is not given.
        id: Option<String>,
        #[command(flatten)]
        wait: Wait,
    },
    /// Try again what has failed, and bring what is left.
    Retry {
        /// Id; the newest where it is not given.
        id: Option<String>,
        #[command(flatten)]
        wait: Wait,
    },
}

#[derive(Debug, Subcommand)]
pub enum LoginCommand {
    /// Create a login with a secret that is shown once.
    #[command(after_help = "Example:\n  insula login create acme reporting --read-only")]
    Create {
        /// The tenant.
        slug: String,
        /// The login's name under the tenant.
        name: String,
        /// Its sessions may only read.
        #[arg(long)]
        read_only: bool,
        /// It may open the databases of descendants: app/child.
        #[arg(long)]
        descendants: bool,
        /// How long its sessions keep a connection to the database: transaction,
        /// or session for programs that leave something in it. As the front is
        /// set where it is not given.
        #[arg(long, value_name = "MODE")]
        pool_mode: Option<PoolMode>,
    },
    /// List a tenant's logins.
    List {
        /// The tenant.
        slug: String,
    },
    /// Revoke a login; its sessions end.
    Revoke {
        /// The tenant.
        slug: String,
        /// The login's name.
        name: String,
    },
}

#[derive(Debug, Subcommand)]
pub enum KeyCommand {
    /// Create an API key that is shown once.
    #[command(after_help = "Example:\n  insula key create acme --role tenant_admin --scope /orders")]
    Create {
        /// The tenant.
        slug: String,
        /// The role of requests that carry it.
        #[arg(long)]
        role: Option<String>,
        /// The path that it is bound to.
        #[arg(long, value_name = "PATH")]
        scope: Option<String>,
    },
    /// List a tenant's keys.
    List {
        /// The tenant.
        slug: String,
    },
    /// Revoke a key.
    Revoke {
        /// Its id.
        id: String,
    },
}

#[derive(Debug, Subcommand)]
pub enum PlanCommand {
    /// List plans.
    List,
    /// Add or change a plan; limits that are not given stay, and are none in a new plan.
    #[command(
        after_help = "Example:\n  insula plan set free --database-connections 5 --storage-bytes 1073741824"
    )]
    Set(SetPlan),
}

/// A plan as it shall be.
#[derive(Debug, clap::Args)]
pub struct SetPlan {
    /// Its name.
    pub name: String,
    /// Sustained HTTP requests in a second, or none.
    #[arg(long, value_name = "N|none", value_parser = limit::<u32>)]
    pub requests_per_second: Option<Limit<u32>>,
    /// Requests at once above that, or none.
    #[arg(long, value_name = "N|none", value_parser = limit::<u32>)]
    pub burst: Option<Limit<u32>>,
    /// Requests in a day, or none.
    #[arg(long, value_name = "N|none", value_parser = limit::<u64>)]
    pub daily_quota: Option<Limit<u64>>,
    /// Requests under way at once, or none.
    #[arg(long, value_name = "N|none", value_parser = limit::<u32>)]
    pub requests_in_flight: Option<Limit<u32>>,
    /// Sessions of the PostgreSQL front at once, or none.
    #[arg(long, value_name = "N|none", value_parser = limit::<u32>)]
    pub database_connections: Option<Limit<u32>>,
    /// Share of a cluster's backends among the tenants that want them, from 1 to 1000.
    #[arg(long, value_name = "N")]
    pub database_weight: Option<u32>,
    /// Backends on a cluster at once, or none for as many as the front is set to.
    #[arg(long, value_name = "N|none", value_parser = limit::<u32>)]
    pub database_backends: Option<Limit<u32>>,
    /// Backends that are kept open while the tenant is in use, or none.
    #[arg(long, value_name = "N|none", value_parser = limit::<u32>)]
    pub database_backends_warm: Option<Limit<u32>>,
    /// Milliseconds that a statement may take, or none.
    #[arg(long, value_name = "MS|none", value_parser = limit::<u32>)]
    pub statement_timeout_ms: Option<Limit<u32>>,
    /// Milliseconds that a transaction may stand open with nothing asked, or none.
    #[arg(long, value_name = "MS|none", value_parser = limit::<u32>)]
    pub idle_in_transaction_timeout_ms: Option<Limit<u32>>,
    /// Bytes of tables and indexes, or none.
    #[arg(long, value_name = "N|none", value_parser = limit::<u64>)]
    pub storage_bytes: Option<Limit<u64>>,
}

/// A limit as it is typed: a number, or `none`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit<T>(pub Option<T>);

fn limit<T: std::str::FromStr>(text: &str) -> Result<Limit<T>, String> {
    if text == "none" {
        return Ok(Limit(None));
    }
    text.parse().map(|number| Limit(Some(number))).map_err(|_| "a whole number, or none".to_owned())
}

#[derive(Debug, Subcommand)]
pub enum TierCommand {
    /// List tiers.
    List,
    /// Add or change a tier.
    #[command(
        after_help = "Example:\n  insula tier set team --isolation schema --user-pool shared --plan standard --own-objects"
    )]
    Set {
        /// Its name.
        name: String,
        /// pool, schema, database or cluster.
        #[arg(long)]
        isolation: String,
        /// shared or dedicated.
        #[arg(long, default_value = "shared")]
        user_pool: String,
        /// The plan.
        #[arg(long)]
        plan: String,
        /// Whether its tenants may make objects of their own, in a schema of their own; stays as it is where it is
        /// not given. Not with the isolation model pool.
        #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
        own_objects: Option<bool>,
        #[command(flatten)]
        wait: Wait,
    },
}

#[derive(Debug, Subcommand)]
pub enum ClusterCommand {
    /// List clusters.
    List,
    /// Show a cluster.
    Show {
        /// Its name.
        name: String,
    },
    /// Register a PostgreSQL server, 15 or newer.
    #[command(
        after_help = "Example:\n  INSULA_CLUSTER_URL=postgres://postgres:secret@10.0.0.5:5432/postgres insula cluster add us-east-1-b --region us-east-1"
    )]
    Add {
        /// Its name.
        name: String,
        /// Where it stands.
        #[arg(long)]
        region: String,
        /// How to reach it as a superuser; or in INSULA_CLUSTER_URL, where no process list shows it. The host may be
        /// the folder of a Unix socket, as %2Frun%2Fpostgresql.
        #[arg(value_name = "DATABASE_URL", env = "INSULA_CLUSTER_URL", hide_env_values = true)]
        database_url: String,
        /// Tenants in its shared tables at the most.
        #[arg(long, default_value_t = 20_000, value_name = "N")]
        pool_capacity: u32,
        /// Schemas at the most.
        #[arg(long, default_value_t = 1_000, value_name = "N")]
        schema_capacity: u32,
        /// Databases at the most.
        #[arg(long, default_value_t = 1_000, value_name = "N")]
        database_capacity: u32,
    },
}

#[derive(Debug, Subcommand)]
pub enum RegionCommand {
    /// List regions with their groups.
    List,
}

#[derive(Debug, Subcommand)]
pub enum OperationCommand {
    /// List operations, the newest first.
    List,
    /// Show an operation with its steps.
    Show {
        /// Its id.
        id: String,
        /// Stay until it has ended.
        #[arg(long)]
        watch: bool,
    },
    /// Set a stuck operation going again.
    Resume {
        /// Its id.
        id: String,
        #[command(flatten)]
        wait: Wait,
    },
}

#[derive(Debug, Subcommand)]
pub enum AuditCommand {
    /// List the audit, the newest first.
    #[command(after_help = "Example:\n  insula audit list acme --limit 20")]
    List {
        /// Only this tenant's.
        slug: Option<String>,
        /// How many entries.
        #[arg(long, default_value_t = 100)]
        limit: u32,
    },
}

#[derive(Debug, Subcommand)]
pub enum OperatorCommand {
    /// Make a token for an operator, by the settings of `serve`; it is shown once.
    #[command(after_help = "Example:\n  insula operator token ada@example.com --config /etc/insula.toml")]
    Token {
        /// Whose.
        email: String,
        #[command(flatten)]
        settings: SettingsFile,
    },
}

#[derive(Debug, Subcommand)]
pub enum MasterKeyCommand {
    /// Print a new master key, for [keys] in the settings.
    #[command(after_help = "Example:\n  insula master-key new > /etc/insula/master.key")]
    New,
    /// Add a new generation to a file of master keys; the earlier ones stay in it.
    #[command(
        after_help = "Example:\n  insula master-key rotate /etc/insula/master.key\n  then restart every process, and: insula master-key rekey --config /etc/insula.toml"
    )]
    Rotate {
        /// The file.
        file: PathBuf,
    },
    /// Bring everything that is derived or sealed to the newest generation.
    Rekey(SettingsFile),
}
