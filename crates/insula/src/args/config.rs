//! `insula config`: values of the configuration.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::config_rollout::ConfigRolloutCommand;
use super::config_tags::ConfigTagsCommand;

/// Where a value is.
#[derive(Debug, Clone, Args)]
pub struct Place {
    /// As this tenant sees it, or set for it.
    #[arg(long, value_name = "SLUG", conflicts_with = "scope")]
    pub tenant: Option<String>,
    /// platform, region/NAME, tier/NAME or tenant/SLUG; platform where neither
    /// this nor a tenant is given. A tenant's own API key needs neither.
    #[arg(long)]
    pub scope: Option<String>,
}

/// What is said of a write.
#[derive(Debug, Clone, Args)]
pub struct Said {
    /// Only where the newest version is this one; 0 is where there is none.
    #[arg(long, value_name = "N")]
    pub if_version: Option<i64>,
    /// What is said of it.
    #[arg(long, value_name = "TEXT")]
    pub note: Option<String>,
    /// Sent again with the same key, it is done once.
    #[arg(long, value_name = "KEY")]
    pub idempotency_key: Option<String>,
}

/// What is followed.
#[derive(Debug, Clone, Args)]
pub struct Watch {
    /// What keys begin with; 20 at the most.
    pub prefix: Vec<String>,
    /// Where.
    #[command(flatten)]
    pub place: Place,
    /// Show secrets in clear, which is written down.
    #[arg(long)]
    pub reveal: bool,
    /// End after so many changes.
    #[arg(long, value_name = "N")]
    pub changes: Option<usize>,
    /// Go on behind this event: the `event` that an earlier watch said last.
    #[arg(long, value_name = "EVENT", value_parser = event)]
    pub after: Option<String>,
    /// Who watches among the tenant's clients; one is given where it is left out.
    #[arg(long, value_name = "ID")]
    pub client_id: Option<String>,
}

/// The name of an event: the revision, and behind a dot a mark of the view.
fn event(text: &str) -> Result<String, String> {
    let is_event = |(revision, view): (&str, &str)| {
        revision.parse::<i64>().is_ok_and(|revision| revision >= 0) && !view.is_empty()
    };
    match text.split_once('.') {
        Some(parts) if is_event(parts) => Ok(text.to_owned()),
        _ => Err("expected an event as a watch says it, a revision, a dot and a mark".to_owned()),
    }
}

/// What a client says of a version.
#[derive(Debug, Clone, Args)]
pub struct Acknowledge {
    /// Who it is among the tenant's clients.
    pub client: String,
    /// The key.
    pub key: String,
    /// The version that it has received; 0 where there is none any more.
    pub version: i64,
    /// It does not run with it, and this is why.
    #[arg(long, value_name = "TEXT")]
    pub rejection: Option<String>,
    /// The scope in which the version is set; where the tenant sees the key now
    /// where it is left out.
    #[arg(long, value_name = "SCOPE")]
    pub set_in: Option<String>,
    /// Up to which change it has taken over what it has received.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub revision: i64,
    /// Where.
    #[command(flatten)]
    pub place: Place,
}

#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Set a value: a new version.
    #[command(
        after_help = "Examples:\n  insula config put tenant_config_theme '{\"colour\":\"teal\"}' --tenant acme\n  insula config put tenant_config_greeting 'Ciao!' --string --scope tier/free\n  insula config put secret_config_smtp --file - --tenant acme\n  insula config put blob_config_logo --file logo.png --media-type image/png"
    )]
    Put {
        /// The key.
        key: String,
        /// The JSON document.
        #[arg(required_unless_present = "file", conflicts_with = "file")]
        value: Option<String>,
        /// Take it from this file; - is standard input. Secrets come so: arguments
        /// are seen by others.
        #[arg(long)]
        file: Option<PathBuf>,
        /// The value is text, and not JSON.
        #[arg(long)]
        string: bool,
        /// It is a large value of this type.
        #[arg(long, value_name = "TYPE", conflicts_with = "string")]
        media_type: Option<String>,
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        said: Said,
    },
    /// Show a value.
    #[command(
        disable_version_flag = true, // a value has versions too
        after_help = "Example:\n  insula config get tenant_config_theme --tenant acme --raw | jq .colour"
    )]
    Get {
        /// The key.
        key: String,
        /// A version of the scope itself.
        #[arg(long, value_name = "N", conflicts_with = "label")]
        version: Option<i64>,
        /// A version of the scope itself, by its label.
        #[arg(long)]
        label: Option<String>,
        /// Only what is set in the scope itself.
        #[arg(long)]
        own: bool,
        /// Show a secret in clear, which is written down.
        #[arg(long)]
        reveal: bool,
        /// Print the value alone.
        #[arg(long)]
        raw: bool,
        #[command(flatten)]
        place: Place,
    },
    /// List values.
    List {
        /// What their keys begin with.
        prefix: Option<String>,
        /// Only what is set in the scope itself.
        #[arg(long)]
        own: bool,
        /// Show secrets in clear, which is written down.
        #[arg(long)]
        reveal: bool,
        /// At most so many; all where it is left out.
        #[arg(long, value_name = "N")]
        limit: Option<usize>,
        #[command(flatten)]
        place: Place,
    },
    /// The bytes of a large value.
    #[command(after_help = "Example:\n  insula config fetch blob_config_logo --tenant acme --file logo.png")]
    Fetch {
        /// The key.
        key: String,
        /// Write them to this file, and not to standard output.
        #[arg(long)]
        file: Option<PathBuf>,
        /// Only if they are those with this SHA-256, in hexadecimal digits.
        #[arg(long, value_name = "DIGITS")]
        sha256: Option<String>,
        #[command(flatten)]
        place: Place,
    },
    /// Remove a value; what is set further away shows again.
    Remove {
        /// The key.
        key: String,
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        said: Said,
    },
    /// The versions of a key, the newest first.
    History {
        /// The key.
        key: String,
        /// Show secrets in clear, which is written down.
        #[arg(long)]
        reveal: bool,
        /// At most so many; all where it is left out.
        #[arg(long, value_name = "N")]
        limit: Option<usize>,
        /// Only versions before this one.
        #[arg(long, value_name = "N")]
        before: Option<i64>,
        #[command(flatten)]
        place: Place,
    },
    /// Set the value of an older version again; the one before where none is named.
    #[command(after_help = "Example:\n  insula config rollback tenant_config_theme --tenant acme --to 3")]
    Rollback {
        /// The key.
        key: String,
        /// The version.
        #[arg(long, value_name = "N", conflicts_with = "label")]
        to: Option<i64>,
        /// The version, by its label.
        #[arg(long)]
        label: Option<String>,
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        said: Said,
    },
    /// Put a label on a version, or take it away.
    #[command(
        disable_version_flag = true, // a value has versions too
        after_help = "Example:\n  insula config label tenant_config_theme stable 3 --tenant acme"
    )]
    Label {
        /// The key.
        key: String,
        /// The label.
        label: String,
        /// The version; left out, the label is taken away.
        version: Option<i64>,
        #[command(flatten)]
        place: Place,
    },
    /// Where a value comes from: every scope that counts, the strongest first.
    Explain {
        /// The key.
        key: String,
        #[command(flatten)]
        place: Place,
    },
    /// Follow what a tenant sees, change by change.
    #[command(after_help = "Example:\n  insula config watch tenant_config_ --tenant acme")]
    Watch(Box<Watch>),
    /// Do several writes, all or none, as a file says them.
    #[command(
        after_help = "Example:\n  insula config transact writes.json --tenant acme\n\nThe file: {\"writes\":[{\"key\":\"…\",\"act\":\"put\",\"value\":…,\"if_version\":3},{\"key\":\"…\",\"act\":\"remove\"}]}; acts are put, remove, rollback, label. A write can name a scope of its own where no tenant is given."
    )]
    Transact {
        /// The file; - is standard input.
        file: PathBuf,
        /// Sent again with the same key, it is done once.
        #[arg(long, value_name = "KEY")]
        idempotency_key: Option<String>,
        #[command(flatten)]
        place: Place,
    },
    /// Say which version a client runs with, or refuses.
    #[command(
        disable_version_flag = true, // a value has versions too
        after_help = "Example:\n  insula config acknowledge worker-7 tenant_config_theme 3 --tenant acme"
    )]
    Acknowledge(Box<Acknowledge>),
    /// Which clients run with which version of a key, as they say themselves.
    #[command(after_help = "Example:\n  insula config clients tenant_config_theme --tenant acme")]
    Clients {
        /// The key.
        key: String,
        /// At most so many clients are listed.
        #[arg(long, value_name = "N")]
        limit: Option<u32>,
        #[command(flatten)]
        place: Place,
    },
    /// Who was shown which secret, the latest first.
    #[command(after_help = "Example:\n  insula config reads secret_config_smtp --tenant acme")]
    Reads {
        /// Of this key alone.
        key: Option<String>,
        /// At most so many.
        #[arg(long, value_name = "N")]
        limit: Option<u32>,
        #[command(flatten)]
        place: Place,
    },
    /// Set a value for some tenants first, step by step for all.
    #[command(subcommand)]
    Rollout(ConfigRolloutCommand),
    /// The table of tags, as it is set; the one that Insula comes with where it is not.
    Tags {
        #[command(subcommand)]
        command: Option<ConfigTagsCommand>,
    },
}
