//! Names that people choose: slugs, regions, clusters, tiers, plans, logins.
//! A value of one of these types is a valid name; there is no other way to
//! make one than to parse it.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize};
use thiserror::Error;
use utoipa::ToSchema;

/// The text is not a valid name of its kind.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{kind} {shown:?} is not valid: {rule}")]
pub struct InvalidName {
    /// What the name would have named, for example `slug`.
    pub kind: &'static str,
    /// The rule that it breaks, in words.
    pub rule: &'static str,
    /// The text, cut to 60 characters.
    pub shown: String,
}

/// Lower-case letters, digits and single dashes between them, a letter first:
/// what is at once a DNS label (RFC 1123 §2.1), a path segment and a user name.
fn is_label(text: &str, max: usize) -> bool {
    let bytes = text.as_bytes();
    !bytes.is_empty()
        && bytes.len() <= max
        && bytes[0].is_ascii_lowercase()
        && bytes[bytes.len() - 1] != b'-'
        && bytes.iter().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'-')
        && !text.contains("--")
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $rule:literal, $check:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, ToSchema)]
        #[serde(transparent)]
        #[schema(value_type = String)]
        pub struct $name(String);

        impl $name {
            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidName;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                let valid: fn(&str) -> bool = $check;
                if valid(text) {
                    Ok(Self(text.to_owned()))
                } else {
                    Err(InvalidName { kind: $kind, rule: $rule, shown: text.chars().take(60).collect() })
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

name! {
    /// A tenant's short name: a DNS label, so that it can be a host name.
    Slug, "slug",
    "it has 1 to 40 characters, lower-case letters, digits and single dashes between them, a letter first, and is \
     none of admin, api, app, console, insula, localhost, token, www",
    |text| is_label(text, 40) && !RESERVED_SLUGS.contains(&text)
}
name! {
    /// A region, for example `us-east-1`.
    RegionName, "region",
    "it has 1 to 40 characters, lower-case letters, digits and single dashes between them, a letter first",
    |text| is_label(text, 40)
}
name! {
    /// A region group, the boundary of residency, for example `eu`.
    RegionGroup, "region group",
    "it has 1 to 40 characters, lower-case letters, digits and single dashes between them, a letter first",
    |text| is_label(text, 40)
}
name! {
    /// A cluster's name, for example `us-east-1-a`.
    ClusterName, "cluster",
    "it has 1 to 60 characters, lower-case letters, digits and single dashes between them, a letter first",
    |text| is_label(text, 60)
}
name! {
    /// A tier's name, for example `business`.
    TierName, "tier",
    "it has 1 to 40 characters, lower-case letters, digits and single dashes between them, a letter first",
    |text| is_label(text, 40)
}
name! {
    /// A plan's name, for example `business`.
    PlanName, "plan",
    "it has 1 to 40 characters, lower-case letters, digits and single dashes between them, a letter first",
    |text| is_label(text, 40)
}
name! {
    /// A database login as its user types it: `acme` (the default login of the
    /// tenant `acme`) or `acme.reporting` (a named one).
    LoginName, "login",
    "it is a slug, or a slug, a dot and a name of 1 to 22 characters: lower-case letters, digits, single dashes",
    |text| match text.split_once('.') {
        None => is_label(text, 40),
        Some((slug, name)) => is_label(slug, 40) && is_label(name, 22),
    }
}

/// Slugs that would collide with Insula's own hosts, paths and user names.
const RESERVED_SLUGS: [&str; 8] = ["admin", "api", "app", "console", "insula", "localhost", "token", "www"];

impl LoginName {
    /// The login that every tenant has from the start: named like its slug.
    #[must_use]
    pub fn default_of(slug: &Slug) -> Self {
        Self(slug.as_str().to_owned())
    }

    /// A further login of the tenant: `slug.name`.
    ///
    /// # Errors
    /// Where `name` is not 1 to 22 lower-case letters, digits and single dashes.
    pub fn named(slug: &Slug, name: &str) -> Result<Self, InvalidName> {
        format!("{slug}.{name}").parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slugs_are_dns_labels() {
        for good in ["a", "acme", "acme-2", "a1-b2-c3", &"a".repeat(40)] {
            assert!(good.parse::<Slug>().is_ok(), "{good}");
        }
        let long = "a".repeat(300);
        for bad in [
            "",
            "Acme",
            "ACME",
            "-a",
            "a-",
            "a--b",
            "1a",
            "a_b",
            "a.b",
            "é",
            "a b",
            "a';drop table x;--",
            "app",
            "token",
            &long,
        ] {
            let refused = bad.parse::<Slug>().unwrap_err();
            assert!(refused.shown.chars().count() <= 60, "{bad}");
        }
    }

    #[test]
    fn a_login_is_a_slug_or_a_slug_and_a_name() {
        let slug: Slug = "acme".parse().unwrap();
        assert_eq!(LoginName::default_of(&slug).as_str(), "acme");
        assert_eq!(LoginName::named(&slug, "reporting").unwrap().as_str(), "acme.reporting");
        assert!(LoginName::named(&slug, "").is_err());
        assert!("acme.b.c".parse::<LoginName>().is_err());
    }
}
