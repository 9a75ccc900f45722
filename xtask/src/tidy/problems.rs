//! The page of every error code: its heading, status and parts are those of
//! the code. That each code has a page is tested in the crate of the codes.

use insula_problem::Code;

use super::Finding;
use crate::repository::SourceFile;

/// The parts of a page, in their order.
const PARTS: [&str; 4] = ["## What it means", "## What usually causes it", "## What to do", "## Example"];

/// Checks every page that is there.
pub fn check(files: &[SourceFile]) -> Vec<Finding> {
    let page = |code: &Code| {
        let path = format!("docs/problems/{code}.md");
        files.iter().find(|file| file.path == path).map(|file| (*code, file))
    };
    Code::ALL.iter().filter_map(page).flat_map(|(code, file)| check_page(code, file)).collect()
}

fn check_page(code: Code, file: &SourceFile) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut expect = |holds: bool, text: String| {
        if !holds {
            findings.push(Finding::new(&file.path, text));
        }
    };
    let mut lines = file.text.lines();
    let heading = format!("# {}", code.title());
    expect(lines.next() == Some(heading.as_str()), format!("does not begin with `{heading}`"));
    let facts = format!("`{code}` · HTTP {}", code.status());
    expect(
        lines.nth(1).is_some_and(|line| line.starts_with(&facts)),
        format!("has not `{facts}` in its third line"),
    );
    let parts: Vec<&str> = file.text.lines().filter(|line| line.starts_with("## ")).collect();
    expect(parts == PARTS, format!("has not the parts {}, in this order and no others", PARTS.join(", ")));
    expect(
        !file.text.contains("\"status\":") || file.text.contains(&format!("\"status\": {},", code.status())),
        format!("has an example with another status than {}", code.status()),
    );
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> usize {
        check(&[SourceFile { path: "docs/problems/slug_taken.md".to_owned(), text: text.to_owned() }]).len()
    }

    #[test]
    fn a_page_is_that_of_its_code() {
        let good = "# The slug is taken\n\n`slug_taken` · HTTP 409\n\n## What it means\n\n## What usually causes it\n\n\
                    ## What to do\n\n## Example\n\n{\n  \"status\": 409,\n}\n";
        assert_eq!(found(good), 0);
        assert_eq!(found(&good.replace("is taken", "was taken")), 1);
        assert_eq!(found(&good.replace("HTTP 409", "HTTP 410")), 1);
        assert_eq!(found(&good.replace("## What to do\n", "")), 1);
        assert_eq!(found(&good.replace("\"status\": 409", "\"status\": 400")), 1);
    }
}
