//! `insula tenant`.

use clap::Subcommand;

use super::{MoveTenant, Wait};

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
        /// A tier of the same isolation model; tenant move is for the others.
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
    /// Move a living tenant: to another isolation model, cluster or region.
    ///
    /// The tenant is used all the time; at the cutover its transactions wait for some milliseconds. Until the move is
    /// completed it can be rolled back, and keeps what was written since.
    #[command(
        after_help = "Examples:\n  insula tenant move acme --tier standard --dry-run\n  insula tenant move acme --tier standard --watch\n  insula tenant move acme --region eu-west-1 --rollback-window 1d\n  insula tenant move acme --cluster us-east-1-b --copy-rate 20MB --long-transactions end"
    )]
    Move(Box<MoveTenant>),
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
