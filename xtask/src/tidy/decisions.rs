//! Decision records: numbered once, and each with the same four parts.

use std::collections::BTreeMap;

use super::Finding;
use crate::repository::SourceFile;

const FOLDER: &str = "docs/decisions/";

/// The parts of a record, in their order.
const PARTS: [&str; 4] = ["## Context", "## Decision", "## Consequences", "## What was measured"];

/// Checks every record.
pub fn check(files: &[SourceFile]) -> Vec<Finding> {
    let mut numbers: BTreeMap<&str, &str> = BTreeMap::new();
    let mut findings = Vec::new();
    for file in files {
        let Some(name) = file.path.strip_prefix(FOLDER).filter(|name| *name != "README.md") else { continue };
        let mut found = |text: String| findings.push(Finding::new(&file.path, text));
        let number = name.split('-').next().unwrap_or_default();
        if number.len() != 4 || !number.bytes().all(|byte| byte.is_ascii_digit()) || !name.ends_with(".md") {
            found("is not named like 0001-what-was-decided.md".to_owned());
            continue;
        }
        if let Some(other) = numbers.insert(number, &file.path) {
            found(format!("has the number of {other}"));
        }
        if !file.text.starts_with(&format!("# {number}: ")) {
            found(format!("does not begin with `# {number}: ` and the decision in a sentence"));
        }
        let headings: Vec<&str> = file.text.lines().filter(|line| line.starts_with("## ")).collect();
        if headings != PARTS {
            found(format!("has not the parts {}, in this order and no others", PARTS.join(", ")));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str =
        "# 0001: We decided\n\n## Context\n\n## Decision\n\n## Consequences\n\n## What was measured\n";

    fn found(files: &[(&str, &str)]) -> usize {
        let files: Vec<_> = files
            .iter()
            .map(|(name, text)| SourceFile { path: format!("{FOLDER}{name}"), text: (*text).to_owned() })
            .collect();
        check(&files).len()
    }

    #[test]
    fn records_are_numbered_and_whole() {
        assert_eq!(found(&[("0001-a.md", GOOD), ("README.md", "")]), 0);
        assert_eq!(found(&[("0001-a.md", GOOD), ("0001-b.md", GOOD)]), 1, "a number twice");
        assert_eq!(found(&[("1-a.md", GOOD)]), 1, "a short number");
        assert_eq!(found(&[("0002-a.md", GOOD)]), 1, "another number in the heading");
        assert_eq!(found(&[("0001-a.md", &GOOD.replace("## Context\n", ""))]), 1, "a part missing");
        assert_eq!(found(&[("0001-a.md", &format!("{GOOD}## More\n"))]), 1, "a part too many");
    }
}
