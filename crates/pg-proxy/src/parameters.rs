//! The settings that a client sends with its startup packet, and which of them
//! go on to the backend.
//!
//! What a tenant's role may set with SET is no boundary, so it goes on. Kept
//! back is what acts only at the start of a backend, before the front sees it
//! ready (`post_auth_delay` would park a server process for half an hour), and
//! what names another role. `options` is a command line for the backend; it is
//! taken apart, and only its settings go on, each checked like the others.

use bytes::Bytes;
use insula_pg_wire::startup::SessionStart;

use crate::refusal::Refusal;

/// Settings that no client may give, on which the module says why. The first
/// two are all that PostgreSQL 15 to 18 let a plain role give at the start of a
/// backend and never later (`pg_settings.context` is `backend`); a test asks the
/// server for that list. The preloading ones load code before a session begins.
const KEPT_BACK: [&str; 7] = [
    "ignore_system_indexes",
    "post_auth_delay",
    "local_preload_libraries",
    "session_preload_libraries",
    "role",
    "session_authorization",
    "is_superuser",
];

/// Names of the packet that are not settings, or that the front answers itself.
const NOT_SETTINGS: [&[u8]; 4] = [b"user", b"database", b"replication", b"options"];

/// Prefix of the protocol's own options.
const PROTOCOL_OPTION: &str = "_pq_.";

/// A setting for the backend.
pub(crate) type Setting = (Bytes, Bytes);

/// The settings that go on to the backend, those of `options` first, as
/// PostgreSQL applies them.
pub(crate) fn settings(start: &SessionStart) -> Result<Vec<Setting>, Refusal> {
    let mut settings = match start.parameter("options") {
        Some(options) => split_options(options)?,
        None => Vec::new(),
    };
    let others = start.parameters.iter().filter(|(name, _)| {
        !NOT_SETTINGS.contains(&&name[..]) && !name.starts_with(PROTOCOL_OPTION.as_bytes())
    });
    settings.extend(others.cloned());
    for (name, _) in &settings {
        check_name(name)?;
    }
    Ok(settings)
}

/// The protocol's own options that the client asks for; none is understood.
pub(crate) fn protocol_options(start: &SessionStart) -> Vec<&[u8]> {
    let is_one = |name: &&[u8]| name.starts_with(PROTOCOL_OPTION.as_bytes());
    start.parameters.iter().map(|(name, _)| &name[..]).filter(is_one).collect()
}

/// Whether the client asks for a replication connection: anything that is not
/// one of PostgreSQL's words for "no".
pub(crate) fn wants_replication(start: &SessionStart) -> bool {
    const NO: [&[u8]; 4] = [b"false", b"off", b"no", b"0"];
    start.parameter("replication").is_some_and(|value| !NO.iter().any(|no| value.eq_ignore_ascii_case(no)))
}

fn check_name(name: &[u8]) -> Result<(), Refusal> {
    let text = std::str::from_utf8(name).unwrap_or_default();
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'.';
    if text.is_empty() || !text.bytes().all(is_name) {
        return Err(Refusal::parameter(&String::from_utf8_lossy(name), "is not the name of a setting"));
    }
    if KEPT_BACK.iter().any(|kept| text.eq_ignore_ascii_case(kept)) {
        return Err(Refusal::parameter(text, "cannot be given by a client"));
    }
    Ok(())
}

/// Takes the command line apart: words at white space with the backslash as
/// escape (`pg_split_opts` of PostgreSQL), then `-c name=value`, `-cname=value`
/// and `--name=value`. Other switches are refused.
fn split_options(options: &[u8]) -> Result<Vec<Setting>, Refusal> {
    let refused = || Refusal::parameter("options", "may hold only -c name=value and --name=value");
    let mut settings = Vec::new();
    let mut words = words(options).into_iter();
    while let Some(word) = words.next() {
        let assignment = match word.strip_prefix(b"--").or_else(|| word.strip_prefix(b"-c")) {
            Some([]) if word == b"-c" => words.next().ok_or_else(refused)?,
            Some(assignment) => assignment.to_vec(),
            None => return Err(refused()),
        };
        let equals = assignment.iter().position(|byte| *byte == b'=').ok_or_else(refused)?;
        let (name, value) = assignment.split_at(equals);
        // On a command line a dash stands for an underscore.
        let name: Vec<u8> = name.iter().map(|byte| if *byte == b'-' { b'_' } else { *byte }).collect();
        settings.push((Bytes::from(name), Bytes::copy_from_slice(&value[1..])));
    }
    Ok(settings)
}

fn words(line: &[u8]) -> Vec<Vec<u8>> {
    let (mut words, mut word, mut escaped) = (Vec::new(), Vec::new(), false);
    for &byte in line {
        match byte {
            _ if escaped => {
                word.push(byte);
                escaped = false;
            }
            b'\\' => escaped = true,
            _ if byte.is_ascii_whitespace() || byte == 0x0b => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
            }
            _ => word.push(byte),
        }
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(parameters: &[(&str, &str)]) -> SessionStart {
        let bytes = |text: &str| Bytes::copy_from_slice(text.as_bytes());
        let parameters = parameters.iter().map(|(name, value)| (bytes(name), bytes(value))).collect();
        SessionStart { minor_version: 0, parameters }
    }

    fn passed(parameters: &[(&str, &str)]) -> Result<Vec<(String, String)>, Refusal> {
        let text = |bytes: &Bytes| String::from_utf8(bytes.to_vec()).unwrap();
        Ok(settings(&start(parameters))?.iter().map(|(name, value)| (text(name), text(value))).collect())
    }

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn settings_go_on_and_what_the_front_answers_does_not() {
        let sent = [
            ("user", "acme"),
            ("database", "app"),
            ("application_name", "psql"),
            ("_pq_.x", "1"),
            ("replication", "off"),
            ("DateStyle", "ISO"),
            ("myapp.tag", "1"),
        ];
        let expected = pairs(&[("application_name", "psql"), ("DateStyle", "ISO"), ("myapp.tag", "1")]);
        assert_eq!(passed(&sent).unwrap(), expected);
        assert_eq!(protocol_options(&start(&sent)), [b"_pq_.x"]);
    }

    #[test]
    fn options_are_taken_apart() {
        let line = r"-c  statement_timeout=5s -cgeqo=off --search-path=a\ b\\c	-c x=";
        let expected = pairs(&[
            ("statement_timeout", "5s"),
            ("geqo", "off"),
            ("search_path", r"a b\c"),
            ("x", ""),
            ("geqo", "on"),
        ]);
        assert_eq!(passed(&[("geqo", "on"), ("options", line)]).unwrap(), expected);
        assert_eq!(passed(&[("options", " ")]).unwrap(), []);
    }

    #[test]
    fn nothing_that_acts_before_the_session_gets_through_in_any_spelling() {
        for name in KEPT_BACK {
            let upper = name.to_uppercase();
            let dashes = name.replace('_', "-");
            assert!(passed(&[(name, "1")]).is_err(), "{name}");
            assert!(passed(&[(&upper, "1")]).is_err(), "{upper}");
            for options in [
                format!("-c {name}=1"),
                format!("-c{upper}=1"),
                format!("--{dashes}=1"),
                format!("-c geqo=on -c {name}=1"),
                format!(r"-c \{name}=1"),
            ] {
                assert!(passed(&[("options", &options)]).is_err(), "{options}");
            }
        }
        for options in
            ["-W 60", "-P", "-f s", "-c", "-c geqo", "--", "geqo=on", "-d5", "-c =x", "-c a\u{a0}b=1"]
        {
            assert!(passed(&[("options", options)]).is_err(), "{options}");
        }
        assert!(passed(&[("a b", "1")]).is_err() && passed(&[("é", "1")]).is_err());
    }

    #[test]
    fn replication_is_whatever_is_not_no() {
        for (value, wanted) in [("true", true), ("database", true), ("", true), ("1", true), ("OFF", false)] {
            assert_eq!(wants_replication(&start(&[("replication", value)])), wanted, "{value}");
        }
        assert!(!wants_replication(&start(&[])));
    }
}
