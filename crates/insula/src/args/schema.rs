//! `insula schema`: the app schema and its rollouts.

use std::path::PathBuf;

use clap::Subcommand;
use insula_domain::RolloutPlacementStatus;

use super::Wait;

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
