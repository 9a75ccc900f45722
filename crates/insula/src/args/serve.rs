//! What runs Insula: `insula up`, `insula serve` and its settings.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

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
    after_help = "Examples:\n  insula serve --config /etc/insula.toml\n  insula serve --roles control,worker\n  insula serve --config /etc/insula.toml --take-over    a restart without a break\n  INSULA_CATALOG__URL=postgres://… insula serve --roles pg-proxy"
)]
pub struct Serve {
    /// The settings file; without one, the environment alone.
    #[arg(long, short, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Take the ports over from the process that has them, which then lets transactions end and stops; where there
    /// is none, just start.
    #[arg(long)]
    pub take_over: bool,
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
