//! The settings of a server, as the text of its own included configuration
//! file. Pure.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::spec::ServerSpec;
use crate::version::Version;

/// The file in the data folder that has our settings; `postgresql.conf`
/// includes it.
pub(crate) const FILE: &str = "insula.conf";

/// The line that makes `postgresql.conf` read it.
pub(crate) const INCLUDE: &str = "include 'insula.conf'";

/// The text of the file.
pub(crate) fn render(spec: &ServerSpec, version: &Version) -> String {
    let mut text = String::from("# Written by Insula at every start; changes are lost.\n");
    for (name, value) in settings(spec, version) {
        // Inside quotes PostgreSQL reads \ and ' as escapes of each other's kind.
        let quoted = value.replace('\\', "\\\\").replace('\'', "''");
        let _ = writeln!(text, "{name} = '{quoted}'");
    }
    text
}

fn settings(spec: &ServerSpec, version: &Version) -> BTreeMap<String, String> {
    let mut all: BTreeMap<String, String> = BTreeMap::new();
    let mut set = |pairs: &[(&str, &str)]| {
        all.extend(pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    };
    set(COMMON);
    set(&[("cluster_name", &spec.name), ("max_connections", &spec.max_connections.to_string())]);
    if version.major() >= 18 {
        set(&[("max_active_replication_origins", "64")]);
    }
    if !spec.durable {
        set(NOT_DURABLE);
    }
    all.extend(spec.settings.clone());
    all
}

const COMMON: &[(&str, &str)] = &[
    // Moves copy tenants by logical replication, many at a time.
    ("wal_level", "logical"),
    ("max_wal_senders", "64"),
    ("max_replication_slots", "64"),
    ("max_worker_processes", "32"),
    ("max_logical_replication_workers", "16"),
    ("max_sync_workers_per_subscription", "4"),
    // Two-phase commit is not used, and a forgotten one would hold back vacuum.
    ("max_prepared_transactions", "0"),
    ("max_locks_per_transaction", "128"),
    // Several servers share one machine.
    ("shared_buffers", "128MB"),
    ("max_wal_size", "1GB"),
    // What the temporary files of one session may take on the disk that all
    // share: only a superuser may set another limit.
    ("temp_file_limit", "5GB"),
    ("jit", "off"),
    ("password_encryption", "scram-sha-256"),
    ("timezone", "UTC"),
    ("log_timezone", "UTC"),
    // The log: to our file, in English, without the text of statements, which
    // may hold passwords, and without details, which may hold rows.
    ("logging_collector", "off"),
    ("log_destination", "stderr"),
    ("log_line_prefix", "%m [%p] %b "),
    ("lc_messages", "C"),
    ("log_statement", "none"),
    ("log_min_error_statement", "panic"),
    ("log_min_duration_statement", "-1"),
    ("log_error_verbosity", "terse"),
    ("log_parameter_max_length_on_error", "0"),
];

/// Commits are still handed to the system before they are acknowledged
/// (`synchronous_commit`), so that they survive a `kill -9` of the server.
const NOT_DURABLE: &[(&str, &str)] =
    &[("fsync", "off"), ("full_page_writes", "off"), ("checkpoint_timeout", "30min")];

#[cfg(test)]
mod tests {
    use super::*;

    fn version(text: &str) -> Version {
        Version::parse(&format!("postgres (PostgreSQL) {text}")).unwrap()
    }

    fn spec() -> ServerSpec {
        ServerSpec::new("catalog", "/tmp/catalog", 7440, "s3cret")
    }

    #[test]
    fn a_durable_server_keeps_its_promises_and_a_test_server_need_not() {
        let mut spec = spec();
        let durable = render(&spec, &version("15.1"));
        assert!(durable.contains("temp_file_limit = '5GB'\n"), "{durable}");
        assert!(!durable.contains("fsync") && !durable.contains("s3cret"), "{durable}");
        assert!(
            durable.contains("wal_level = 'logical'\n") && durable.contains("cluster_name = 'catalog'\n")
        );
        spec.durable = false;
        assert!(render(&spec, &version("15.1")).contains("fsync = 'off'\n"));
    }

    #[test]
    fn the_callers_settings_win_and_cannot_break_out_of_their_quotes() {
        let mut spec = spec();
        spec.settings.insert("jit".to_owned(), "on".to_owned());
        spec.settings.insert("search_path".to_owned(), r"a'b\c".to_owned());
        let text = render(&spec, &version("15.1"));
        assert!(text.contains("jit = 'on'\n") && !text.contains("jit = 'off'"), "{text}");
        assert!(text.contains(r"search_path = 'a''b\\c'"), "{text}");
    }

    #[test]
    fn settings_that_came_later_are_written_for_versions_that_have_them() {
        assert!(!render(&spec(), &version("17.2")).contains("max_active_replication_origins"));
        assert!(render(&spec(), &version("18.0")).contains("max_active_replication_origins = '64'"));
    }
}
