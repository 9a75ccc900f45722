//! `insula config rollout`: a value, to more and more tenants.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use insula_settings::HumanDuration;

use super::config::Place;

/// What is rolled out, and how.
#[derive(Debug, Clone, Args)]
pub struct Start {
    /// The key.
    pub key: String,
    /// The JSON document.
    #[arg(group = "what")]
    pub value: Option<String>,
    /// Take it from this file; - is standard input.
    #[arg(long, group = "what")]
    pub file: Option<PathBuf>,
    /// It is a large value of this type.
    #[arg(long, value_name = "TYPE", conflicts_with_all = ["version", "label", "remove"])]
    pub media_type: Option<String>,
    /// The value of this older version.
    #[arg(long, value_name = "N", group = "what")]
    pub version: Option<i64>,
    /// The value of the version with this label.
    #[arg(long, group = "what")]
    pub label: Option<String>,
    /// No value any more.
    #[arg(long, group = "what")]
    pub remove: bool,
    /// Shares of the tenants in percent, the last one 100.
    #[arg(long, value_name = "PERCENT,…", value_delimiter = ',', default_value = "5,25,100")]
    pub steps: Vec<f64>,
    /// How long each step is looked at.
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = bake)]
    pub bake: u32,
    /// Those who see it from the first step on.
    #[arg(long, value_name = "SLUG,…", value_delimiter = ',')]
    pub tenants: Vec<String>,
    /// So many tenants' clients may refuse it; one more, and it is taken back.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub rejections: u32,
    /// So many tenants' clients have to run with it before a step is over; in a
    /// tenant's scope, clients of that tenant.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub confirmations: u32,
    /// Only where the newest version is this one; 0 is where there is none.
    #[arg(long, value_name = "N")]
    pub if_version: Option<i64>,
    /// What is said of it.
    #[arg(long, value_name = "TEXT")]
    pub note: Option<String>,
    /// Where it is set.
    #[command(flatten)]
    pub place: Place,
}

#[derive(Debug, Subcommand)]
pub enum ConfigRolloutCommand {
    /// Set a value for the first tenants, and step by step for all.
    #[command(
        disable_version_flag = true, // a value has versions too
        group = clap::ArgGroup::new("what").required(true),
        override_usage = "insula config rollout start <KEY> <VALUE|--file FILE|--version N|--label LABEL|--remove> [OPTIONS]",
        after_help = "Examples:\n  insula config rollout start tenant_config_theme '{\"colour\":\"plum\"}' --steps 5,25,100 --bake 10m\n  insula config rollout start tenant_config_theme --version 3 --tenants acme --scope tier/free"
    )]
    Start(Box<Start>),
    /// Show how far a rollout is, and what clients say.
    Show {
        /// The key.
        key: String,
        #[command(flatten)]
        place: Place,
    },
    /// List the rollouts that are under way.
    List {
        #[command(flatten)]
        place: Place,
    },
    /// Have it stay where it is.
    Pause {
        /// The key.
        key: String,
        /// Why.
        #[arg(long, value_name = "TEXT")]
        cause: Option<String>,
        #[command(flatten)]
        place: Place,
    },
    /// Have it go on.
    Resume {
        /// The key.
        key: String,
        /// Why.
        #[arg(long, value_name = "TEXT")]
        cause: Option<String>,
        #[command(flatten)]
        place: Place,
    },
    /// End it: the version before is set again.
    #[command(
        after_help = "Example:\n  insula config rollout abort tenant_config_theme --cause 'errors of the shop have doubled'"
    )]
    Abort {
        /// The key.
        key: String,
        /// Why.
        #[arg(long, value_name = "TEXT")]
        cause: Option<String>,
        #[command(flatten)]
        place: Place,
    },
}

/// The time of a step, in seconds.
fn bake(text: &str) -> Result<u32, String> {
    let time = text.parse::<HumanDuration>().map_err(|error| error.to_string())?;
    let too_long = || "a step is looked at for 30d at the most".to_owned();
    u32::try_from(time.get().as_secs()).map_err(|_| too_long())
}
