//! `insula plan` and `insula tier`: what is sold.

use clap::{Args, Subcommand};

use super::Wait;

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
#[derive(Debug, Args)]
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
