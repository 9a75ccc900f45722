//! Which of the values that are set under a key a tenant sees: the one that is
//! set closest to it. The order is platform, region, tier, the tenants above it
//! from the top down, and the tenant itself.

use insula_domain::{RegionName, TenantId, TierName};

use crate::rollout::Rollout;
use crate::scope::Scope;
use crate::stored::{Stored, Version};
use crate::tag::Tag;

/// What is said of a tenant that decides what it sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lineage {
    /// The tenant.
    pub tenant: TenantId,
    /// Where its home is.
    pub region: RegionName,
    /// Its tier.
    pub tier: TierName,
    /// The tenants above it whose home is the same region, the closest first.
    pub ancestors: Vec<TenantId>,
}

impl Lineage {
    /// The scopes in which a tenant's values are looked for, the weakest first.
    #[must_use]
    pub fn scopes(&self) -> Vec<Scope> {
        let mut scopes =
            vec![Scope::Platform, Scope::Region(self.region.clone()), Scope::Tier(self.tier.clone())];
        scopes.extend(self.ancestors.iter().rev().map(|above| Scope::Tenant(*above)));
        scopes.push(Scope::Tenant(self.tenant));
        scopes
    }

    /// The scopes that count under a tag, the weakest first: what a tenant has
    /// been given in confidence is not for those below it.
    #[must_use]
    pub fn scopes_under(&self, tag: &Tag) -> Vec<Scope> {
        let mut scopes = self.scopes();
        if !tag.inherited {
            scopes.retain(|scope| scope.tenant().is_none_or(|tenant| tenant == self.tenant));
        }
        scopes
    }
}

/// One scope's say on a key.
#[derive(Debug, Clone, PartialEq)]
pub struct Layer {
    /// Which scope.
    pub scope: Scope,
    /// What is set there; none where nothing is, or it was removed.
    pub stored: Option<Stored>,
    /// Where the newest version is being rolled out in stages: not all tenants
    /// see it yet.
    pub staged: Option<Staged>,
}

/// What is known of a key beside its newest version, while that is rolled out.
#[derive(Debug, Clone, PartialEq)]
pub struct Staged {
    /// The rollout.
    pub rollout: Rollout,
    /// The version before the newest; none where there was none.
    pub before: Option<Stored>,
}

impl Layer {
    /// What is set in one scope, and nothing is rolled out.
    #[must_use]
    pub fn of(scope: Scope, stored: Option<Stored>) -> Self {
        Self { scope, stored, staged: None }
    }

    /// The version that is being rolled out, to how many percent of the tenants,
    /// and whether it is what this layer shows.
    #[must_use]
    pub fn stage(&self) -> Option<(Version, f64, bool)> {
        let rollout = &self.staged.as_ref()?.rollout;
        let reached = self.stored.as_ref().is_some_and(|stored| stored.version == rollout.candidate);
        Some((rollout.candidate, rollout.share().percent(), reached))
    }

    /// The layer as a tenant sees it.
    #[must_use]
    pub fn seen_by(mut self, tenant: TenantId) -> Self {
        if let (Some(newest), Some(staged)) = (&self.stored, &mut self.staged)
            && staged.rollout.holds_back(newest.version, tenant)
        {
            self.stored = staged.before.take();
        }
        self
    }
}

/// Why a tenant sees what it sees.
#[derive(Debug, Clone, PartialEq)]
pub struct Explained {
    /// Every scope that counts, the strongest first.
    pub layers: Vec<Layer>,
}

impl Explained {
    /// What the tenant sees.
    #[must_use]
    pub fn value(&self) -> Option<&Stored> {
        effective(self.layers.iter().rev().map(|layer| layer.stored.as_ref()))
    }

    /// The number of the layer that the tenant sees, from 0 on; none where it
    /// sees nothing.
    #[must_use]
    pub fn effective(&self) -> Option<usize> {
        let has_value = |layer: &Layer| layer.stored.as_ref().is_some_and(|stored| stored.value.is_some());
        self.layers.iter().position(has_value)
    }

    /// Why each layer does not count, in words; none where it does, or nothing
    /// is set there.
    #[must_use]
    pub fn passed_over(&self) -> Vec<Option<String>> {
        let closer = self.effective().map(|index| (index, &self.layers[index].scope));
        let why = |(index, layer): (usize, &Layer)| match (&layer.stored, closer) {
            (Some(stored), _) if stored.value.is_none() => Some("it was removed here".to_owned()),
            (Some(_), Some((first, scope))) if first < index => Some(format!("{scope} is closer")),
            _ => None,
        };
        self.layers.iter().enumerate().map(why).collect()
    }
}

/// The strongest value of several, the weakest first; a removal is no value,
/// so that what is set further away shows again.
pub fn effective<'stored>(
    layers: impl IntoIterator<Item = Option<&'stored Stored>>,
) -> Option<&'stored Stored> {
    layers.into_iter().flatten().filter(|stored| stored.value.is_some()).last()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tag::TagTable;

    #[test]
    fn the_closest_scope_is_the_strongest() {
        let id = |number: u8| format!("0190b8a0-0000-7000-8000-0000000000{number:02}").parse().unwrap();
        let lineage = Lineage {
            tenant: id(3),
            region: "eu-west-1".parse().unwrap(),
            tier: "free".parse().unwrap(),
            ancestors: vec![id(2), id(1)],
        };
        let texts: Vec<String> = lineage.scopes().iter().map(ToString::to_string).collect();
        assert_eq!(texts[..3], ["platform", "region/eu-west-1", "tier/free"]);
        assert!(texts[3].ends_with("01") && texts[4].ends_with("02") && texts[5].ends_with("03"));
        let tags = TagTable::default();
        let secret = tags.of(&"secret_config_smtp".parse().unwrap()).unwrap();
        let mine = lineage.scopes_under(secret);
        assert_eq!(mine.len(), 4);
        assert!(!mine.contains(&Scope::Tenant(id(2))));
    }
}
