//! No file is so long that it can only be something fetched or built: whoever
//! clones the repository has it for ever.

use super::Finding;
use crate::repository::FileSize;

/// Longest file of ours, in bytes. What is generated from the API is a third of it.
const BYTES_MAX: u64 = 1024 * 1024;

/// Finds files that are too long.
pub fn check(sizes: &[FileSize]) -> Vec<Finding> {
    let long = sizes.iter().filter(|file| file.bytes > BYTES_MAX);
    long.map(|file| {
        let text = format!("{} bytes; what is fetched or built belongs into .gitignore", file.bytes);
        Finding::new(&file.path, text)
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_that_was_fetched_is_found() {
        let of = |path: &str, bytes| FileSize { path: path.to_owned(), bytes };
        let found = check(&[of("docs/openapi.json", BYTES_MAX), of("tool.whl", BYTES_MAX + 1)]);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].place, "tool.whl");
    }
}
