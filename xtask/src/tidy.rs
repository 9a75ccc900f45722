//! `cargo xtask tidy`: what keeps the source readable. Every check is a pure
//! function of the files, tested with input that it must find.

mod decisions;
mod direction;
mod links;
mod problems;
mod sizes;
mod sources;

use std::fmt;
use std::process::ExitCode;

use anyhow::Result;

use crate::repository::Repository;

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The file, with its line where there is one.
    pub place: String,
    /// What is wrong, and what to do.
    pub text: String,
}

impl Finding {
    fn new(place: impl Into<String>, text: impl Into<String>) -> Self {
        Self { place: place.into(), text: text.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.text)
    }
}

/// Runs every check and prints what it finds.
pub fn run(repository: &Repository) -> Result<ExitCode> {
    let crates = direction::read(repository.root())?;
    let checks = [
        ("crates", direction::check(&crates)),
        ("sources", sources::check(repository.files())),
        ("decisions", decisions::check(repository.files())),
        ("problems", problems::check(repository.files())),
        ("sizes", sizes::check(repository.sizes())),
        ("links", links::check(repository.files(), &|path| repository.root().join(path).exists())),
    ];
    let mut count = 0;
    for (name, findings) in &checks {
        count += findings.len();
        for finding in findings {
            println!("{name}: {finding}");
        }
    }
    println!("tidy: {} crates, {} files, {count} findings", crates.len(), repository.files().len());
    Ok(if count == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
