//! Every file says what it is for, says nothing that is left to do, speaks of
//! nothing outside the repository, and is not too long to be read.

use super::Finding;
use crate::repository::SourceFile;

/// Lines of a file, and of one with tests alone.
const LINES_MAX: usize = 800;
const TEST_LINES_MAX: usize = 1_200;

/// Longer files, each with the reason why it is better whole.
const LONG: &[(&str, &str)] = &[];

/// What is written by programs, or taken from elsewhere as it is.
const NOT_OURS: &[&str] = &["Cargo.lock", "LICENSE"];

/// Words for work that is left, in parts, so that this file does not hold them.
const LEFT_TO_DO: [&str; 3] = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X")];

/// The start of a path that leads out of the repository to its neighbours.
const OUTSIDE: &str = concat!("../", "shared");

/// Checks every file of ours.
pub fn check(files: &[SourceFile]) -> Vec<Finding> {
    let ours = files.iter().filter(|file| !NOT_OURS.contains(&file.path.as_str()));
    let mut findings: Vec<_> = ours.flat_map(|file| check_file(file, LONG)).collect();
    for (path, _) in LONG {
        if !files.iter().any(|file| file.path == *path && is_too_long(file)) {
            findings.push(Finding::new(*path, "is not too long any more: take it out of the list in xtask"));
        }
    }
    findings
}

fn check_file(file: &SourceFile, long: &[(&str, &str)]) -> Vec<Finding> {
    let mut findings = Vec::new();
    if file.path.ends_with(".rs") && !says_what_it_is_for(&file.text) {
        findings.push(Finding::new(&file.path, "begins without a `//!` that says what the file is for"));
    }
    for (index, line) in file.text.lines().enumerate() {
        let place = || format!("{}:{}", file.path, index + 1);
        if let Some(word) = LEFT_TO_DO.iter().find(|word| has_word(line, word)) {
            findings.push(Finding::new(place(), format!("{word}: do it, or file it where work is planned")));
        }
        if line.contains(OUTSIDE) {
            findings.push(Finding::new(place(), format!("{OUTSIDE} is not part of the repository")));
        }
    }
    if is_too_long(file) && !long.iter().any(|(path, _)| *path == file.path) {
        let text =
            format!("has {} lines: divide it, or list it with a reason in xtask", file.text.lines().count());
        findings.push(Finding::new(&file.path, text));
    }
    findings
}

fn says_what_it_is_for(text: &str) -> bool {
    text.lines().next().and_then(|line| line.strip_prefix("//! ")).is_some_and(|said| said.trim().len() > 10)
}

/// Whether the word stands alone in the line.
fn has_word(line: &str, word: &str) -> bool {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    line.match_indices(word)
        .any(|(at, _)| !line[..at].ends_with(is_part) && !line[at + word.len()..].starts_with(is_part))
}

fn is_too_long(file: &SourceFile) -> bool {
    let is_code = [".rs", ".sql", ".py", ".sh", ".js", ".ts"].iter().any(|end| file.path.ends_with(end));
    let is_test = file.path.contains("/tests/") || file.path.ends_with("/tests.rs");
    is_code && file.text.lines().count() > if is_test { TEST_LINES_MAX } else { LINES_MAX }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, text: &str) -> SourceFile {
        SourceFile { path: path.to_owned(), text: text.to_owned() }
    }

    fn found(path: &str, text: &str) -> Vec<String> {
        check_file(&file(path, text), &[]).into_iter().map(|finding| finding.to_string()).collect()
    }

    #[test]
    fn a_file_says_what_it_is_for() {
        for bad in
            ["", "fn main() {}\n", "// Reads the file.\n", "//!\n", "//! x\n", "\n//! Reads the file.\n"]
        {
            assert_eq!(found("a.rs", bad).len(), 1, "{bad:?}");
        }
        assert!(found("a.rs", "//! Reads the file.\n").is_empty());
        assert!(found("a.sql", "select 1;\n").is_empty());
    }

    #[test]
    fn nothing_is_left_to_do() {
        for word in LEFT_TO_DO {
            assert_eq!(
                found("a.md", &format!("one\ntwo {word}: three\n")),
                [format!("a.md:2: {word}: do it, or file it where work is planned")]
            );
            assert!(found("a.md", &format!("my{word}s {word}_LIST {}\n", word.to_lowercase())).is_empty());
        }
    }

    #[test]
    fn nothing_speaks_of_what_is_outside() {
        assert_eq!(found("a.md", &format!("see {OUTSIDE}/x.md\n")).len(), 1);
        assert!(found("a.md", "see ../docs/x.md\n").is_empty());
    }

    #[test]
    fn files_are_not_too_long() {
        let lines = |count: usize| format!("//! Reads the file.\n{}", "// line\n".repeat(count - 1));
        assert!(found("crates/a/src/a.rs", &lines(LINES_MAX)).is_empty());
        assert_eq!(found("crates/a/src/a.rs", &lines(LINES_MAX + 1)).len(), 1);
        assert!(found("crates/a/tests/a.rs", &lines(TEST_LINES_MAX)).is_empty());
        assert_eq!(found("crates/a/tests/a.rs", &lines(TEST_LINES_MAX + 1)).len(), 1);
        assert!(found("docs/a.md", &"line\n".repeat(5_000)).is_empty());
        let long = file("crates/a/src/a.rs", &lines(LINES_MAX + 1));
        assert!(check_file(&long, &[("crates/a/src/a.rs", "a reason")]).is_empty());
    }
}
