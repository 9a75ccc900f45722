//! `insula pg`: what the PostgreSQL front is at.

use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub enum PgCommand {
    /// Show what the front of the server that is asked has now; its counts begin with its process.
    #[command(subcommand)]
    Show(PgShow),
}

#[derive(Debug, Subcommand)]
pub enum PgShow {
    /// Sessions: those that wait for a backend first, then those that are at work.
    #[command(after_help = "Example:\n  insula pg show clients --tenant acme")]
    Clients(PgFilter),
    /// Connections to tenants' clusters.
    #[command(after_help = "Example:\n  insula pg show backends --limit 1000 | cut -f 1,2 | sort | uniq -c")]
    Backends(PgFilter),
    /// Tenants: those whose sessions wait first, then those with most transactions.
    #[command(after_help = "Example:\n  insula pg show tenants --output json")]
    Tenants(PgFilter),
}

#[derive(Debug, Clone, Args)]
pub struct PgFilter {
    /// Of this tenant alone, by slug or id.
    #[arg(long, value_name = "SLUG")]
    pub tenant: Option<String>,
    /// How many at the most.
    #[arg(long, default_value_t = 100, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub limit: u32,
}
