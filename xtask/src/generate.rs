//! The artefacts that are made from the code and committed all the same, so
//! that people can read them and see in a change what it does to them.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use insula_problem::Code;
use insula_settings::Settings;

/// A committed file, and how it is made from what is there now.
struct Artefact {
    path: &'static str,
    make: fn(&str) -> Result<String>,
}

const ARTEFACTS: &[Artefact] = &[
    Artefact { path: "docs/settings.schema.json", make: |_| Ok(Settings::json_schema()) },
    Artefact { path: "docs/problems/README.md", make: with_code_table },
];

const TABLE_BEGINS: &str = "<!-- codes: written by `cargo xtask generate` -->\n";
const TABLE_ENDS: &str = "<!-- end of codes -->";

/// Writes every artefact that differs.
pub fn write(root: &Path) -> Result<ExitCode> {
    for (path, text) in differing(root)? {
        std::fs::write(root.join(path), text).with_context(|| format!("{path} cannot be written"))?;
        println!("wrote {path}");
    }
    Ok(ExitCode::SUCCESS)
}

/// Names every artefact that differs.
pub fn check(root: &Path) -> Result<ExitCode> {
    let differing = differing(root)?;
    for (path, _) in &differing {
        println!("{path} is not what the code makes: run `cargo xtask generate`");
    }
    println!("generate --check: {} artefacts, {} differ", ARTEFACTS.len(), differing.len());
    Ok(if differing.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn differing(root: &Path) -> Result<Vec<(&'static str, String)>> {
    let mut differing = Vec::new();
    for artefact in ARTEFACTS {
        let there = std::fs::read_to_string(root.join(artefact.path)).unwrap_or_default();
        let wanted = (artefact.make)(&there).with_context(|| artefact.path)?;
        if there != wanted {
            differing.push((artefact.path, wanted));
        }
    }
    Ok(differing)
}

/// The page with the table of all codes between its two marks.
fn with_code_table(page: &str) -> Result<String> {
    let (before, rest) =
        page.split_once(TABLE_BEGINS).context("the mark before the table of codes is missing")?;
    let (_, after) = rest.split_once(TABLE_ENDS).context("the mark after the table of codes is missing")?;
    let mut codes = Code::ALL.to_vec();
    codes.sort_by_key(|code| code.as_str());
    let rows: String = codes
        .iter()
        .map(|code| format!("| [`{code}`]({code}.md) | {} | {} |\n", code.status(), code.title()))
        .collect();
    Ok(format!(
        "{before}{TABLE_BEGINS}\n| code | HTTP | title |\n| --- | --- | --- |\n{rows}\n{TABLE_ENDS}{after}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_stands_between_its_marks_and_stays() {
        let page = format!("# Codes\n\n{TABLE_BEGINS}stale row\n{TABLE_ENDS}\nafter\n");
        let once = with_code_table(&page).unwrap();
        assert!(
            once.starts_with("# Codes\n\n<!--")
                && once.ends_with("-->\nafter\n")
                && !once.contains("stale row")
        );
        for code in Code::ALL {
            assert_eq!(once.matches(&format!("({code}.md)")).count(), 1, "{code}");
        }
        assert_eq!(with_code_table(&once).unwrap(), once);
        assert!(with_code_table("# Codes\n").is_err());
    }

    #[test]
    fn what_differs_is_found_and_written() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("docs/problems")).unwrap();
        std::fs::write(folder.path().join("docs/problems/README.md"), format!("{TABLE_BEGINS}{TABLE_ENDS}"))
            .unwrap();
        assert_eq!(differing(folder.path()).unwrap().len(), ARTEFACTS.len(), "canary");
        assert_eq!(check(folder.path()).unwrap(), ExitCode::FAILURE);
        write(folder.path()).unwrap();
        assert_eq!(differing(folder.path()).unwrap(), []);
        assert_eq!(check(folder.path()).unwrap(), ExitCode::SUCCESS);
    }
}
