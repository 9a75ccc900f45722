//! `insula attack`.

use clap::Args;
use insula_domain::PoolMode;

#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Examples:\n  insula attack --as acme --against globex\n  insula attack --as acme --against globex --only protocol --output json\n  insula attack --list\n\nExit codes: 0 all held, 1 the suite could not run, 3 at least one succeeded, 4 none succeeded but not all could be tried\n\nWhat it touches: docs/guides/attack.md"
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
    /// End with exit code 0 also where some attempts could not be tried, so long as others could and held.
    #[arg(long)]
    pub allow_untried: bool,
    /// Show the attempts, and make none.
    #[arg(long)]
    pub list: bool,
}
