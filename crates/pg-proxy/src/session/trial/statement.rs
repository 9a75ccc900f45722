//! The statements that the server of a trial knows, by their texts.

/// What a statement does there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Statement {
    Empty,
    Begin,
    Commit,
    Rollback,
    Set(String, String),
    Show(String),
    ResetAll,
    DiscardAll,
    Deallocate(Vec<u8>),
    DeallocateAll,
    CopyIn,
    Fails,
    FailsToParse,
    /// The front sets what a session had set.
    Restores(Vec<(String, String)>),
    /// The front asks for these.
    Asks(Vec<String>),
    /// A row that only this text gives.
    Says(Vec<u8>),
}

/// With what custom settings begin here.
const CUSTOM: &str = "app.";

impl Statement {
    /// The statement of a text.
    pub fn of(text: &[u8]) -> Self {
        let says = || Self::Says(text.to_vec());
        let Ok(plain) = std::str::from_utf8(text) else { return says() };
        let plain = plain.trim().trim_end_matches(';').trim_end().to_ascii_lowercase();
        if plain.contains("1/0") {
            return Self::Fails;
        }
        if plain.contains("syntax error") || plain.starts_with("select \"insula:refused:") {
            return Self::FailsToParse;
        }
        if plain.starts_with("copy ") && plain.contains(" from stdin") {
            return Self::CopyIn;
        }
        if plain.starts_with("select name, pg_catalog.left(setting") {
            return Self::Asks(texts(&plain).into_iter().filter(|name| name.starts_with(CUSTOM)).collect());
        }
        // The front answers these with a text of its own.
        if plain.starts_with("show insula.") || plain.contains("as \"insula.") {
            return Self::Says(Vec::new());
        }
        let words: Vec<&str> = plain.split_ascii_whitespace().collect();
        match words[..] {
            [] => Self::Empty,
            ["begin", ..] | ["start", "transaction", ..] => Self::Begin,
            ["commit" | "end"] => Self::Commit,
            ["rollback" | "abort"] => Self::Rollback,
            ["set", name, "=", value] if name.starts_with(CUSTOM) => {
                Self::Set(name.to_owned(), value.trim_matches('\'').to_owned())
            }
            ["show", name] if name.starts_with(CUSTOM) => Self::Show(name.to_owned()),
            ["reset", "all"] => Self::ResetAll,
            ["discard", "all"] => Self::DiscardAll,
            ["deallocate", "all"] => Self::DeallocateAll,
            ["deallocate", name] => Self::Deallocate(name.as_bytes().to_vec()),
            ["select", call, ..] if call.starts_with("pg_catalog.set_config(") => {
                let texts = texts(&plain);
                let pairs = texts.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone()));
                Self::Restores(pairs.collect())
            }
            _ => says(),
        }
    }

    /// The statements of a `Query`: several only where the front has put them
    /// together.
    pub fn several(text: &[u8]) -> Vec<&[u8]> {
        let is_own = text.starts_with(b"RESET ALL; ") || text.starts_with(b"DEALLOCATE ALL; ");
        match std::str::from_utf8(text) {
            Ok(plain) if is_own => plain.split("; ").map(str::as_bytes).collect(),
            _ => vec![text],
        }
    }
}

/// What stands between quotes of the kind that the front writes, where there is
/// nothing in it that would have to be escaped.
fn texts(plain: &str) -> Vec<String> {
    let mut texts: Vec<String> = Vec::new();
    for piece in plain.split("e'").skip(1) {
        let text = piece.split('\'').next().unwrap_or_default();
        // In the question each name stands twice.
        if !plain.starts_with("select name") || !texts.iter().any(|known| known == text) {
            texts.push(text.to_owned());
        }
    }
    texts
}

/// Whether the server of a trial and the front understand a text in the same
/// way: what leaves something behind must be said plainly.
pub(super) fn is_understood(text: &[u8]) -> bool {
    let Ok(plain) = std::str::from_utf8(text) else { return false };
    if plain.starts_with("RESET ALL;") || plain.starts_with("DEALLOCATE ALL;") {
        return false;
    }
    let lower = plain.to_ascii_lowercase();
    let speaks_of = |word: &str| lower.contains(word);
    match Statement::of(text) {
        Statement::Deallocate(name) => {
            let is_plain = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
            // Its name is read in small letters, and may be a word of the language.
            plain == lower && name.iter().all(is_plain) && name != b"prepare" && name.first() == Some(&b's')
        }
        Statement::Set(name, value) => {
            let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
            plain == lower
                && name[CUSTOM.len()..].bytes().all(is_plain)
                && name.len() > CUSTOM.len() + 1
                && name.as_bytes()[CUSTOM.len()].is_ascii_lowercase()
                && plain.contains(&format!(" '{value}'"))
                && value.bytes().all(is_plain)
        }
        Statement::Show(name) => {
            plain == lower && name[CUSTOM.len()..].bytes().all(|byte| byte.is_ascii_alphanumeric())
        }
        Statement::Restores(_) | Statement::Asks(_) => false,
        Statement::DeallocateAll | Statement::DiscardAll | Statement::ResetAll => {
            !speaks_of("--") && !speaks_of("/*")
        }
        Statement::Says(_) => {
            !["deallocate", "discard", "as \"insula."].into_iter().any(speaks_of)
                && (!speaks_of("insula") || Statement::of(text) != Statement::Says(Vec::new()))
        }
        _ => !["deallocate", "discard"].into_iter().any(speaks_of),
    }
}
