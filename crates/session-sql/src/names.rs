//! Names that matter: those of functions that leave something in a session, and
//! those of settings that cannot be carried over.

/// A function that leaves something behind, or another name that does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Known {
    AdvisoryLock,
    Dblink,
    /// `set_config`: it depends on its arguments.
    SetConfig,
    SetSeed,
    /// It reads what sequences left.
    ReadsSequence,
    /// The schema of temporary objects.
    TemporarySchema,
    /// It runs text that it is given.
    RunsText,
}

impl Known {
    /// That of a name, as PostgreSQL has folded it.
    pub fn of(name: &[u8]) -> Option<Self> {
        // Few names begin so.
        if !matches!(name.first(), Some(b'c' | b'd' | b'l' | b'p' | b'q' | b's' | b't' | b'x')) {
            return None;
        }
        Some(match name {
            b"pg_advisory_lock"
            | b"pg_advisory_lock_shared"
            | b"pg_try_advisory_lock"
            | b"pg_try_advisory_lock_shared" => Self::AdvisoryLock,
            b"set_config" => Self::SetConfig,
            b"setseed" => Self::SetSeed,
            b"currval" | b"lastval" => Self::ReadsSequence,
            b"pg_temp" => Self::TemporarySchema,
            b"query_to_xml"
            | b"query_to_xmlschema"
            | b"query_to_xml_and_xmlschema"
            | b"ts_stat"
            | b"ts_rewrite"
            | b"xpath_table" => Self::RunsText,
            _ if name.starts_with(b"pg_temp_") => Self::TemporarySchema,
            _ if name.starts_with(b"dblink_connect") => Self::Dblink,
            _ if name.starts_with(b"crosstab") => Self::RunsText,
            _ => return None,
        })
    }
}

/// A setting, as far as it matters which.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Setting {
    /// Any that can be carried over by its name.
    Plain,
    /// The role, or the session's user.
    Role,
    Seed,
    /// The search path, where a temporary schema makes tables temporary.
    Path,
    /// One of [`READ_BY`].
    ReadBy,
    /// `TIME ZONE` or `NAMES`, which are reset by `LOCAL` and by nothing behind them
    /// (PostgreSQL's `gram.y`).
    Called,
}

/// Settings that decide what a literal of a text is, or how its parts are put
/// together (PostgreSQL's manual, section 20.11 "Client Connection Defaults" and
/// 20.13 "Version and Platform Compatibility").
pub const READ_BY: &[&str] = &[
    "array_nulls",
    "backslash_quote",
    "client_encoding",
    "datestyle",
    "intervalstyle",
    "lc_monetary",
    "lc_numeric",
    "standard_conforming_strings",
    "timezone",
    "timezone_abbreviations",
    "transform_null_equals",
    "xmloption",
];

/// What some of them are called behind `SET`: `TIME ZONE`, `NAMES`, `XML OPTION`.
const CALLED: &[&str] = &["time", "names", "xml"];

/// Those that can be reset without a `DEFAULT`.
const RESET_OTHERWISE: &[&str] = &["time", "names"];

impl Setting {
    /// That of a name. PostgreSQL compares the names of settings without
    /// regard to case.
    pub fn of(name: &[u8]) -> Self {
        let is = |other: &str| name.eq_ignore_ascii_case(other.as_bytes());
        if is("role") || is("session_authorization") {
            Self::Role
        } else if is("seed") {
            Self::Seed
        } else if is("search_path") || is("schema") {
            Self::Path
        } else if RESET_OTHERWISE.iter().any(|name| is(name)) {
            Self::Called
        } else if READ_BY.iter().chain(CALLED).any(|name| is(name)) {
            Self::ReadBy
        } else {
            Self::Plain
        }
    }
}
