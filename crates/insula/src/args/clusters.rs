//! `insula cluster` and `insula region`: where tenants live.

use clap::Subcommand;

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
        after_help = "Example:\n  INSULA_CLUSTER_URL=$(cat cluster.url) insula cluster add us-east-1-b --region us-east-1"
    )]
    Add {
        /// Its name.
        name: String,
        /// Where it stands.
        #[arg(long)]
        region: String,
        /// How to reach it as a superuser, as in postgres://USER:PASSWORD@HOST:5432/postgres; or in INSULA_CLUSTER_URL,
        /// where no process list shows it. The host may be the folder of a Unix socket, as %2Frun%2Fpostgresql.
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
