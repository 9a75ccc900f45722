//! Where a value is set: for everybody, for a region, for a tier, or for one tenant.

use std::fmt;
use std::str::FromStr;

use insula_domain::{RegionName, TenantId, TierName};
use thiserror::Error;

/// Where a value is set. As text, and in stores: `platform`, `region/eu-west-1`,
/// `tier/free`, `tenant/<id>`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scope {
    /// For every tenant.
    Platform,
    /// For the tenants whose home is there.
    Region(RegionName),
    /// For the tenants of the tier.
    Tier(TierName),
    /// For one tenant, and those below it.
    Tenant(TenantId),
}

impl Scope {
    /// The tenant whose it is; none where it is the provider's.
    #[must_use]
    pub fn tenant(&self) -> Option<TenantId> {
        match self {
            Self::Tenant(tenant) => Some(*tenant),
            _ => None,
        }
    }
}

/// The text is no scope.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0:?} is no scope: there are platform, region/NAME, tier/NAME and tenant/ID")]
pub struct InvalidScope(String);

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Platform => f.write_str("platform"),
            Self::Region(region) => write!(f, "region/{region}"),
            Self::Tier(tier) => write!(f, "tier/{tier}"),
            Self::Tenant(tenant) => write!(f, "tenant/{tenant}"),
        }
    }
}

impl FromStr for Scope {
    type Err = InvalidScope;

    fn from_str(text: &str) -> Result<Self, InvalidScope> {
        let invalid = || InvalidScope(text.chars().take(60).collect());
        if text == "platform" {
            return Ok(Self::Platform);
        }
        let (kind, name) = text.split_once('/').ok_or_else(invalid)?;
        match kind {
            "region" => name.parse().map(Self::Region).map_err(|_| invalid()),
            "tier" => name.parse().map(Self::Tier).map_err(|_| invalid()),
            "tenant" => name.parse().map(Self::Tenant).map_err(|_| invalid()),
            _ => Err(invalid()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_read_back() {
        for text in
            ["platform", "region/eu-west-1", "tier/free", "tenant/0190b8a0-0000-7000-8000-000000000001"]
        {
            assert_eq!(text.parse::<Scope>().unwrap().to_string(), text);
        }
        for text in ["", "Platform", "region/", "region", "tier/A B", "tenant/x", "group/eu"] {
            assert!(text.parse::<Scope>().is_err(), "{text}");
        }
    }
}
