//! The stable codes. A code, once given out, keeps its meaning for ever; each
//! has a page of its own in `docs/problems/`.

use std::fmt;

macro_rules! codes {
    ($($variant:ident, $word:literal, $status:literal, $title:literal;)*) => {
        /// What kind of problem it is.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Code {
            $(#[doc = $title] $variant,)*
        }

        impl Code {
            /// Every code there is.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The code as the outside sees it.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }

            /// The HTTP status that goes with it.
            #[must_use]
            pub const fn status(self) -> u16 {
                match self { $(Self::$variant => $status,)* }
            }

            /// A few words that are the same for every problem of the code.
            #[must_use]
            pub const fn title(self) -> &'static str {
                match self { $(Self::$variant => $title,)* }
            }
        }
    };
}

codes! {
    // The request.
    InvalidRequest, "invalid_request", 400, "The request is not valid";
    InvalidSlug, "invalid_slug", 400, "The slug is not valid";
    InvalidCursor, "invalid_cursor", 400, "The cursor is not one of ours";
    Unauthenticated, "unauthenticated", 401, "No valid credential";
    TooManyAttempts, "too_many_attempts", 429, "Too many wrong credentials";
    Forbidden, "forbidden", 403, "The credential does not reach this far";
    NotFound, "not_found", 404, "There is no such thing";
    MethodNotAllowed, "method_not_allowed", 405, "The path does not know this method";
    RequestTooLarge, "request_too_large", 413, "The request is too large";
    UnsupportedMediaType, "unsupported_media_type", 415, "The body must be JSON";
    RequestTimeout, "request_timeout", 408, "The request took too long";
    PreconditionFailed, "precondition_failed", 412, "The thing has changed since it was read";
    IdempotencyKeyReused, "idempotency_key_reused", 409, "The idempotency key was used for another request";
    IdempotencyKeyInUse, "idempotency_key_in_use", 409, "Another request under the idempotency key is under way";
    IdempotencyKeyInvalid, "idempotency_key_invalid", 400, "The idempotency key is not valid";
    // Tenants.
    TenantNotFound, "tenant_not_found", 404, "There is no such tenant";
    SlugTaken, "slug_taken", 409, "The slug is taken";
    UnknownTier, "unknown_tier", 400, "There is no such tier";
    OwnObjectsRefused, "own_objects_refused", 409, "Tenants that share tables make no objects";
    TierBusy, "tier_busy", 409, "Another operation on the tier is under way";
    UnknownPlan, "unknown_plan", 400, "There is no such plan";
    UnknownRegion, "unknown_region", 400, "There is no such region";
    UnknownRegionGroup, "unknown_region_group", 400, "There is no such region group";
    UnknownCluster, "unknown_cluster", 400, "There is no such cluster";
    ParentNotFound, "parent_not_found", 400, "There is no such parent tenant";
    ParentNotUsable, "parent_not_usable", 409, "The parent tenant cannot have children now";
    ParentCycle, "parent_cycle", 409, "A tenant cannot be its own ancestor";
    TenantHasChildren, "tenant_has_children", 409, "The tenant still has children";
    TenantStatusConflict, "tenant_status_conflict", 409, "The tenant's status does not allow this";
    TenantSuspended, "tenant_suspended", 403, "The tenant is suspended";
    TenantBusy, "tenant_busy", 409, "Another operation on the tenant is under way";
    ResidencyViolation, "residency_violation", 409, "The tenant's data must stay in its region group";
    NoCapacity, "no_capacity", 409, "No cluster has room";
    MoveNotSupported, "move_not_supported", 409, "The tenant would have to move";
    // Moves.
    MoveNotFound, "move_not_found", 404, "There is no such move";
    MoveOpen, "move_open", 409, "Another move of the tenant has not ended";
    MoveBlocked, "move_blocked", 409, "Something is in the way of the move";
    MoveStatusConflict, "move_status_conflict", 409, "The move's status does not allow this";
    MoveToSamePlace, "move_to_same_place", 409, "The tenant is there already";
    MoveDiverged, "move_diverged", 409, "The two ends of a move differ";
    SchemaChanged, "schema_changed", 409, "The app schema has changed during a move";
    SchemaBehind, "schema_behind", 409, "The placement is behind in the app schema";
    // Clusters.
    ClusterNameTaken, "cluster_name_taken", 409, "The cluster's name is taken";
    ClusterUnreachable, "cluster_unreachable", 409, "The cluster cannot be reached";
    ClusterUnsuitable, "cluster_unsuitable", 409, "The cluster cannot be used as it is";
    ProvisionerMissing, "provisioner_missing", 409, "Nothing here can start a cluster";
    // Logins and keys.
    LoginNotFound, "login_not_found", 404, "There is no such login";
    LoginTaken, "login_taken", 409, "The login's name is taken";
    KeyNotFound, "key_not_found", 404, "There is no such key";
    QuotaExceeded, "quota_exceeded", 429, "A limit of the plan is reached";
    // App schema.
    SchemaFolderInvalid, "schema_folder_invalid", 400, "The folder does not hold an app schema";
    MigrationSyntaxError, "migration_syntax_error", 400, "A migration has a syntax error";
    MigrationRefused, "migration_refused", 409, "A migration is not safe in shared tables";
    MigrationFailed, "migration_failed", 409, "A migration failed";
    MigrationChanged, "migration_changed", 409, "A migration that was applied has changed";
    SchemaBusy, "schema_busy", 409, "Another schema apply is under way";
    RolloutNotFound, "rollout_not_found", 404, "There is no such rollout";
    RolloutStatusConflict, "rollout_status_conflict", 409, "The rollout's status does not allow this";
    SchemaAuditFailed, "schema_audit_failed", 409, "The catalog audit found a difference";
    BlueprintMissing, "blueprint_missing", 409, "There is no blueprint";
    BlueprintAhead, "blueprint_ahead", 409, "The blueprint has changes that were not captured";
    BlueprintBusy, "blueprint_busy", 409, "The blueprint is in use";
    NothingToCapture, "nothing_to_capture", 409, "Nothing was done on the blueprint";
    CaptureRefused, "capture_refused", 409, "What was done on the blueprint cannot be captured";
    // Configuration.
    ConfigKeyInvalid, "config_key_invalid", 400, "The configuration key is not valid";
    ConfigTagUnknown, "config_tag_unknown", 400, "The key begins with no tag";
    ConfigTagMoving, "config_tag_moving", 409, "The tag is being moved to another backend";
    ConfigTagsInvalid, "config_tags_invalid", 400, "The table of tags cannot be used";
    ConfigValueInvalid, "config_value_invalid", 400, "The value is not valid";
    ConfigValueTooLarge, "config_value_too_large", 413, "The value is too large";
    ConfigSchemaViolation, "config_schema_violation", 422, "The value does not fit its schema";
    ConfigLabelInvalid, "config_label_invalid", 400, "The label is not valid";
    ConfigVersionConflict, "config_version_conflict", 412, "The value has changed since it was read";
    ConfigVersionNotFound, "config_version_not_found", 404, "There is no such version";
    ConfigKeyNotFound, "config_key_not_found", 404, "There is no value under the key";
    ConfigQuotaExceeded, "config_quota_exceeded", 429, "The configuration has no room for the value";
    ConfigMoving, "config_moving", 503, "The tenant's configuration is being moved";
    ConfigCompacted, "config_compacted", 410, "The log does not go back so far";
    ConfigBackendUnavailable, "config_backend_unavailable", 503, "The backend of the tag cannot be reached";
    // Operations.
    OperationNotFound, "operation_not_found", 404, "There is no such operation";
    OperationNotStuck, "operation_not_stuck", 409, "The operation is not stuck";
    // The system.
    Unavailable, "unavailable", 503, "Insula cannot do this right now";
    CatalogUnavailable, "catalog_unavailable", 503, "The catalog is not reachable";
    StoreTooNew, "store_too_new", 503, "The store was written by a newer Insula";
    Overloaded, "overloaded", 503, "Insula is too busy right now";
    Internal, "internal", 500, "Something went wrong on our side";
    // The PostgreSQL front.
    FrontMissing, "front_missing", 409, "The process has no PostgreSQL front";
    LoginRefused, "login_refused", 401, "The login or its secret is wrong";
    UnknownScope, "unknown_scope", 404, "The login has no such database scope";
    HostRefused, "host_refused", 403, "The host name is not one of the login's";
    TooManyConnections, "too_many_connections", 429, "The tenant has all its connections in use";
    ReplicationRefused, "replication_refused", 403, "Replication connections are not served";
    StatementRefused, "statement_refused", 403, "The statement is not allowed here";
    StatementTimeout, "statement_timeout", 408, "The statement takes too long";
    IdleInTransaction, "idle_in_transaction_timeout", 408, "The transaction is idle for too long";
    TlsRequired, "tls_required", 403, "The front wants TLS here";
    ProtocolViolation, "protocol_violation", 400, "The client does not speak the protocol";
    PlacementUnavailable, "placement_unavailable", 503, "The tenant's cluster cannot be reached";
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_snake_case_and_unique() {
        let mut words: Vec<_> = Code::ALL.iter().map(|code| code.as_str()).collect();
        assert!(words.iter().all(|word| word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')));
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), Code::ALL.len());
    }

    #[test]
    fn every_code_has_its_page_and_every_page_its_code() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/problems");
        let mut pages: Vec<_> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name != "README.md")
            .collect();
        pages.sort_unstable();
        let mut wanted: Vec<_> = Code::ALL.iter().map(|code| format!("{code}.md")).collect();
        wanted.sort_unstable();
        assert_eq!(pages, wanted);
    }
}
