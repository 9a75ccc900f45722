//! `insula tenant move` and `insula move`.

use clap::{ArgGroup, Args, Subcommand};
use insula_domain::MoveTerms;
use insula_settings::HumanDuration;

use super::Wait;

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("place").required(true).multiple(true).args(["tier", "isolation", "region", "cluster"]))]
pub struct MoveTenant {
    /// Slug or id.
    pub slug: String,
    /// What it buys from then on; its isolation model where --isolation is not given.
    #[arg(long)]
    pub tier: Option<String>,
    /// The isolation model.
    #[arg(long, value_name = "MODEL", value_parser = ["pool", "schema", "database", "cluster"])]
    pub isolation: Option<String>,
    /// The region, which must be in the tenant's region group.
    #[arg(long)]
    pub region: Option<String>,
    /// The cluster; the one with the most room where it is not given.
    #[arg(long)]
    pub cluster: Option<String>,
    /// Change nothing; print the steps, an estimate, and what is in the way. Exit 1 where something stops it.
    #[arg(long, conflicts_with_all = ["watch", "no_wait", "idempotency_key"])]
    pub dry_run: bool,
    /// Draw how far it is while it runs.
    #[arg(long, conflicts_with = "no_wait")]
    pub watch: bool,
    /// How long the tenant's transactions may be held up at a time, from 50ms to 10s.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = hold)]
    pub hold: u32,
    /// What is done with transactions that are open at the hold: waited for in the next try, or ended.
    #[arg(long, value_name = "WHAT", value_enum, default_value_t = OpenTransactions::Wait)]
    pub long_transactions: OpenTransactions,
    /// For how long it can be rolled back, at the most 30d.
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = rollback_window)]
    pub rollback_window: u32,
    /// The most that is copied in a second, for example 20MB; no limit where it is not given.
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    pub copy_rate: Option<u64>,
    /// Sent again with the same key, the call moves nothing anew.
    #[arg(long, value_name = "K")]
    pub idempotency_key: Option<String>,
    #[command(flatten)]
    pub wait: Wait,
}

/// What is done with open transactions, as it is typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum OpenTransactions {
    Wait,
    End,
}

#[derive(Debug, Subcommand)]
pub enum MoveCommand {
    /// List moves, the newest first.
    #[command(after_help = "Examples:\n  insula move list\n  insula move list acme --output json")]
    List {
        /// Only this tenant's.
        slug: Option<String>,
    },
    /// Show a move with its steps.
    #[command(
        after_help = "Examples:\n  insula move show 0199a1c2-7d5e-7000-8000-5b1c0e3f9a21\n  insula move show 0199a1c2-7d5e-7000-8000-5b1c0e3f9a21 --watch"
    )]
    Show {
        /// Its id.
        id: String,
        /// Stay while it is at work, and draw how far it is.
        #[arg(long)]
        watch: bool,
    },
    /// Take a move back after its cutover; everything written since is kept.
    #[command(after_help = "Example:\n  insula move rollback 0199a1c2-7d5e-7000-8000-5b1c0e3f9a21 --watch")]
    Rollback {
        /// Its id.
        id: String,
        /// Draw how far it is while it runs.
        #[arg(long, conflicts_with = "no_wait")]
        watch: bool,
        #[command(flatten)]
        wait: Wait,
    },
    /// End a move after its cutover: what is left at the source is removed, and there is no way back.
    #[command(after_help = "Example:\n  insula move complete 0199a1c2-7d5e-7000-8000-5b1c0e3f9a21 --watch")]
    Complete {
        /// Its id.
        id: String,
        /// Draw how far it is while it runs.
        #[arg(long, conflicts_with = "no_wait")]
        watch: bool,
        #[command(flatten)]
        wait: Wait,
    },
    /// Take a move back before its cutover: the tenant stays where it is.
    #[command(after_help = "Example:\n  insula move cancel 0199a1c2-7d5e-7000-8000-5b1c0e3f9a21 --watch")]
    Cancel {
        /// Its id.
        id: String,
        /// Draw how far it is until it is taken back.
        #[arg(long, conflicts_with = "no_wait")]
        watch: bool,
        #[command(flatten)]
        wait: Wait,
    },
}

/// The time of a hold, in milliseconds.
fn hold(text: &str) -> Result<u32, String> {
    let time = text.parse::<HumanDuration>().map_err(|error| error.to_string())?;
    u32::try_from(time.get().as_millis())
        .ok()
        .filter(|milliseconds| MoveTerms::HOLD_MS.contains(milliseconds))
        .ok_or_else(|| "a hold is from 50ms to 10s".to_owned())
}

/// A rollback window, in seconds.
fn rollback_window(text: &str) -> Result<u32, String> {
    let time = text.parse::<HumanDuration>().map_err(|error| error.to_string())?;
    u32::try_from(time.get().as_secs())
        .ok()
        .filter(|seconds| *seconds <= MoveTerms::ROLLBACK_WINDOW_S_MAX)
        .ok_or_else(|| "a rollback window is at the most 30d".to_owned())
}

/// Bytes as people write them: `65536`, `500kB`, `20MB`, `1GB`.
fn bytes(text: &str) -> Result<u64, String> {
    let wrong = || "bytes like 65536, 500kB, 20MB or 1GB".to_owned();
    let units = [("GB", 1_000_000_000), ("MB", 1_000_000), ("kB", 1_000), ("", 1)];
    let read = units.into_iter().find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, factor)));
    let (digits, factor) = read.ok_or_else(wrong)?;
    let bytes = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(factor));
    bytes.filter(|bytes| *bytes > 0).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Cli, Command, TenantCommand};

    fn read(line: &str) -> Result<MoveTenant, clap::Error> {
        let words = ["insula", "tenant", "move"].into_iter().chain(line.split_whitespace());
        match Cli::try_parse_from(words)?.command {
            Command::Tenant(TenantCommand::Move(read)) => Ok(*read),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_not_said_is_the_default() {
        let read = read("acme --tier standard").unwrap();
        let terms = MoveTerms::default();
        assert_eq!((read.hold, read.rollback_window), (terms.hold_ms, terms.rollback_window_s));
        assert_eq!(read.copy_rate, terms.copy_bytes_per_second);
        assert_eq!(read.long_transactions, OpenTransactions::Wait);
    }

    #[test]
    fn times_and_bytes_are_read_as_people_write_them() {
        let line = "acme --cluster us-b --hold 250ms --rollback-window 1d12h --copy-rate 20MB";
        let read = read(line).unwrap();
        assert_eq!((read.hold, read.rollback_window, read.copy_rate), (250, 129_600, Some(20_000_000)));
        assert_eq!(bytes("65536"), Ok(65_536));
        assert_eq!(bytes("500kB"), Ok(500_000));
    }

    #[test]
    fn wrong_usage_is_told_as_such() {
        for line in [
            "acme",
            "--tier standard",
            "acme --isolation shared",
            "acme --tier standard --hold 20ms",
            "acme --tier standard --hold 1m",
            "acme --tier standard --hold 1",
            "acme --tier standard --rollback-window 31d",
            "acme --tier standard --long-transactions kill",
            "acme --tier standard --copy-rate 0",
            "acme --tier standard --copy-rate 20MiB",
            "acme --tier standard --copy-rate 99999999999GB",
            "acme --tier standard --dry-run --watch",
            "acme --tier standard --dry-run --no-wait",
            "acme --tier standard --watch --no-wait",
        ] {
            assert_eq!(read(line).unwrap_err().exit_code(), 2, "{line}");
        }
    }

    #[test]
    fn what_ends_a_move_is_watched_or_not_waited_for() {
        for verb in ["rollback", "complete", "cancel"] {
            let read = |options: &[&str]| {
                Cli::try_parse_from([&["insula", "move", verb, "0199a1c2"], options].concat())
            };
            for options in [&[][..], &["--watch"], &["--no-wait"]] {
                assert!(read(options).is_ok(), "{verb} {options:?}");
            }
            assert_eq!(read(&["--watch", "--no-wait"]).unwrap_err().exit_code(), 2, "{verb}");
        }
    }
}
