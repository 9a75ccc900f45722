//! Checks and helpers of the house, run as `cargo xtask …`: what keeps the
//! source tidy, committed artefacts true, and the tests with one PostgreSQL.

// A command line tool: it prints.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod generate;
mod repository;
mod run_tests;
mod tidy;

use std::process::ExitCode;

use repository::Repository;

const USAGE: &str = "\
usage: cargo xtask COMMAND

  tidy                      checks what keeps the source readable
  generate [--check]        writes the committed artefacts again; --check only compares
  test [-- NEXTEST ARGS]    runs all tests against one PostgreSQL server of their own
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["tidy"] => Repository::here().and_then(|here| tidy::run(&here)),
        ["generate"] => Repository::here().and_then(|here| generate::write(here.root())),
        ["generate", "--check"] => Repository::here().and_then(|here| generate::check(here.root())),
        ["test"] => run_tests::run(&[]),
        ["test", "--", arguments @ ..] => run_tests::run(arguments),
        _ => {
            eprint!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    done.unwrap_or_else(|error| {
        eprintln!("xtask: {error:#}");
        ExitCode::FAILURE
    })
}
