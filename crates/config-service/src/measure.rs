//! The metrics of the configuration service. No label names a tenant or a key.

use metrics::{describe_counter, describe_gauge, describe_histogram};

/// Watchers that are connected.
pub const WATCHERS: &str = "insula_config_watchers";
/// Tenants that are watched, by region.
pub const TOPICS: &str = "insula_config_watched_tenants";
/// Bytes of changes that wait for watchers, by region.
pub const QUEUED_BYTES: &str = "insula_config_queued_bytes";
/// Bytes on their way to watchers.
pub const SENDING_BYTES: &str = "insula_config_sending_bytes";
/// Calls, by method and code.
pub const CALLS: &str = "insula_config_calls_total";
/// Time of a call that is no watch, by method.
pub const CALL_SECONDS: &str = "insula_config_call_seconds";
/// Snapshots that were sent, by reason.
pub const SNAPSHOTS: &str = "insula_config_snapshots_total";
/// Deltas that were sent.
pub const DELTAS: &str = "insula_config_deltas_total";
/// Time from a batch of changes to its end in all topics.
pub const FANOUT_SECONDS: &str = "insula_config_fanout_seconds";

/// Describes them, once a recorder is there.
pub fn describe() {
    describe_gauge!(WATCHERS, "Watchers of configuration that are connected");
    describe_gauge!(TOPICS, "Tenants whose configuration is watched, by region");
    describe_gauge!(QUEUED_BYTES, "Bytes of changes that wait for watchers of configuration, by region");
    describe_gauge!(SENDING_BYTES, "Bytes on their way to watchers of configuration");
    describe_counter!(CALLS, "Calls of the configuration service, by method and code");
    describe_histogram!(CALL_SECONDS, "Time of a call of the configuration service, by method");
    describe_counter!(SNAPSHOTS, "Snapshots sent to watchers, by reason");
    describe_counter!(DELTAS, "Deltas sent to watchers");
    describe_histogram!(FANOUT_SECONDS, "Time from a batch of changes to its end in all topics");
}
