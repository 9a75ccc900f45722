//! PostgreSQL's version as its programs print it
//! (`postgres (PostgreSQL) 15.20 (Debian 15.20-0+deb12u1)`).

use std::cmp::Ordering;
use std::fmt;

/// A version of PostgreSQL. Betas and development builds sort below every
/// release, so that they are taken only where there is nothing else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    major: u32,
    minor: u32,
    released: bool,
    text: String,
}

impl Version {
    /// The version in what `postgres --version` prints; `None` where there is none.
    #[must_use]
    pub fn parse(line: &str) -> Option<Self> {
        let text = line.split("(PostgreSQL)").nth(1)?.split_whitespace().next()?;
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (major, rest) = text.split_at(digits);
        let minor = rest.strip_prefix('.').map(|rest| {
            let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
            &rest[..end]
        });
        Some(Self {
            major: major.parse().ok()?,
            minor: minor.and_then(|minor| minor.parse().ok()).unwrap_or(0),
            released: minor.is_some(),
            text: text.to_owned(),
        })
    }

    /// The major version, such as 15.
    #[must_use]
    pub fn major(&self) -> u32 {
        self.major
    }

    /// The whole version, such as `15.13`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    fn rank(&self) -> (bool, u32, u32) {
        (self.released, self.major, self.minor)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Ord for Version {
    fn cmp(&self, other: &Self) -> Ordering {
        self.rank().cmp(&other.rank()).then_with(|| self.text.cmp(&other.text))
    }
}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(text: &str) -> Version {
        Version::parse(&format!("postgres (PostgreSQL) {text}")).unwrap()
    }

    #[test]
    fn versions_are_read_as_the_programs_print_them() {
        let debian = Version::parse("postgres (PostgreSQL) 15.20 (Debian 15.20-0+deb12u1)\n").unwrap();
        assert_eq!((debian.major(), debian.as_str()), (15, "15.20"));
        assert_eq!(version("9.6.24").major(), 9);
        assert_eq!(version("18beta1").major(), 18);
        for other in ["", "psql 15", "postgres (PostgreSQL)", "postgres (PostgreSQL) devel"] {
            assert_eq!(Version::parse(other), None, "{other}");
        }
    }

    #[test]
    fn a_release_stands_above_a_beta_and_a_newer_above_an_older() {
        assert!(version("17.2") > version("15.13"));
        assert!(version("15.13") > version("15.9"));
        assert!(version("15.0") > version("19beta1"));
        assert!(version("19beta1") > version("18devel"));
    }
}
