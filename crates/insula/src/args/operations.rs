//! `insula operation` and `insula audit`: what was done and by whom.

use clap::Subcommand;

use super::Wait;

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
