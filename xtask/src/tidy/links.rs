//! Links in Markdown to files of the repository lead somewhere.

use super::Finding;
use crate::repository::SourceFile;

/// Checks every link of every Markdown file. `exists` is asked about paths
/// from the root.
pub fn check(files: &[SourceFile], exists: &dyn Fn(&str) -> bool) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in files.iter().filter(|file| file.path.ends_with(".md")) {
        for (line, target) in links(&file.text) {
            let leads = match resolve(&file.path, &target) {
                Some(path) => exists(&path),
                None => false,
            };
            if !leads {
                findings
                    .push(Finding::new(format!("{}:{line}", file.path), format!("{target} leads nowhere")));
            }
        }
    }
    findings
}

/// The local targets of a text with their lines; nothing within code.
fn links(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut in_fence = false;
    for (index, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            in_fence = !in_fence;
        } else if !in_fence {
            let local = targets(&without_code(line)).into_iter().filter(|target| is_local(target));
            found.extend(local.map(|target| (index + 1, target)));
        }
    }
    found
}

/// The line without what stands between backticks. An odd one begins nothing.
fn without_code(line: &str) -> String {
    let pieces: Vec<&str> = line.split('`').collect();
    let last = pieces.len() - 1;
    let is_outside = |index: usize| index.is_multiple_of(2) || index == last;
    pieces.iter().enumerate().filter(|(index, _)| is_outside(*index)).map(|(_, piece)| *piece).collect()
}

/// What stands between `](` and `)`, without a title.
fn targets(line: &str) -> Vec<String> {
    line.split("](")
        .skip(1)
        .filter_map(|rest| rest.split_once(')'))
        .map(|(target, _)| {
            target.split_whitespace().next().unwrap_or_default().trim_matches(['<', '>']).to_owned()
        })
        .collect()
}

fn is_local(target: &str) -> bool {
    !target.starts_with('#') && !target.contains("://") && !target.starts_with("mailto:")
}

/// The path from the root; none where it leads out of the repository.
fn resolve(from: &str, target: &str) -> Option<String> {
    let target = target.split('#').next().unwrap_or_default();
    let mut parts: Vec<&str> = match target.strip_prefix('/') {
        Some(_) => Vec::new(),
        None => from.split('/').collect(),
    };
    parts.pop();
    for part in target.trim_start_matches('/').split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> usize {
        let file = SourceFile { path: "docs/guides/a.md".to_owned(), text: text.to_owned() };
        let there = ["docs/guides/b.md", "docs/c.md", "README.md", "docs"];
        check(&[file], &|path| there.contains(&path)).len()
    }

    #[test]
    fn a_link_leads_to_a_file() {
        for good in [
            "[b](b.md) and [c](../c.md#part) and [r](/README.md \"title\")",
            "[up](..) [site](https://example.com/x) [here](#part) [mail](mailto:a@b)",
            "`[x](gone.md)` code",
            "```\n[x](gone.md)\n```",
            "[`b`](b.md)",
        ] {
            assert_eq!(found(good), 0, "{good}");
        }
        for bad in [
            "[b](gone.md)",
            "[o](../../../x.md)",
            "a ` and [b](gone.md)",
            "```\n```\n[x](gone.md)",
            "[e]()x [b](B.md)",
        ] {
            assert!(found(bad) > 0, "{bad}");
        }
        assert_eq!(found("[b](b.md) [x](gone.md) [y](also-gone.md)"), 2);
    }
}
