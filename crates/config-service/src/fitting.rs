//! Values that have to fit: a JSON Schema that is set for their key, and what
//! flags, shared rules and schemas are themselves.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use insula_config_flags::{FlagDefinition, FlagRefused, SharedRules};
use insula_config_model::{ConfigKey, ConfigValue, KeyPrefix, Kind, SCHEMA_KEYS, Scope, Stored};
use insula_config_schema::{NotASchema, SchemaCache, governing};
use insula_config_store::ConfigStore;
use insula_domain::RegionName;
use insula_problem::{Code, Problem};
use serde_json::Value;

use crate::directory::Named;
use crate::flagd::{FLAGS, RULES};
use crate::known_schemas::{KnownSchemas, OfScope};
use crate::validate::{HeldAgainst, Proposed, Schemas, Validator};

/// The most schemas that count for a scope.
const SCHEMAS_MAX: u32 = 1_000;

/// The most compiled schemas that are kept.
const COMPILED_MAX: usize = 500;

/// Refuses values that do not fit.
#[derive(Debug)]
pub struct Fitting {
    regions: BTreeMap<RegionName, ConfigStore>,
    provider: ConfigStore,
    known: KnownSchemas,
    compiled: SchemaCache,
}

impl Fitting {
    /// By the schemas that are in the stores.
    #[must_use]
    pub fn new(regions: BTreeMap<RegionName, ConfigStore>, provider: ConfigStore) -> Self {
        Self { regions, provider, known: KnownSchemas::default(), compiled: SchemaCache::new(COMPILED_MAX) }
    }

    /// The schemas that count for a scope: each in its own scope, the furthest first.
    async fn schemas(&self, named: &Named, asked: Schemas) -> Result<Vec<(Scope, Arc<OfScope>)>, Problem> {
        let (region, store, scopes) = match named {
            Named::Tenant(lineage) => {
                (Some(&lineage.region), self.regions.get(&lineage.region), lineage.scopes())
            }
            Named::Provider(Scope::Platform) => (None, Some(&self.provider), vec![Scope::Platform]),
            Named::Provider(scope) => (None, Some(&self.provider), vec![Scope::Platform, scope.clone()]),
        };
        if asked == Schemas::Known {
            let known = scopes.into_iter().map(|scope| (self.known.of(region, &scope), scope));
            return Ok(known.map(|(of, scope)| (scope, of)).collect());
        }
        let away = || Problem::new(Code::Unavailable, "This process does not serve the tenant's region.");
        let prefix: KeyPrefix = SCHEMA_KEYS.parse().map_err(Problem::internal)?;
        let page = store.ok_or_else(away)?.list_at_once(&scopes, &prefix, SCHEMAS_MAX + 1).await?;
        if page.next.is_some() || page.keys.len() > SCHEMAS_MAX as usize {
            let detail = format!("There are more than {SCHEMAS_MAX} schemas, or they are longer than 4 MiB.");
            return Err(Problem::new(Code::QuotaExceeded, detail));
        }
        let set = page.keys.into_iter().flat_map(|one| one.layers).filter_map(|layer| layer.stored);
        let mut by_scope: BTreeMap<Scope, OfScope> = BTreeMap::new();
        for stored in set {
            by_scope.entry(stored.scope.clone()).or_default().take(stored);
        }
        let mut newest = Vec::with_capacity(scopes.len());
        for scope in scopes {
            let of = Arc::new(by_scope.remove(&scope).unwrap_or_default());
            self.known.set(region, &scope, &of);
            newest.push((scope, of));
        }
        Ok(newest)
    }

    /// Holds a value against its schema; which schemas that was decided by.
    async fn check_schema(
        &self,
        proposed: &Proposed<'_>,
        asked: Schemas,
        value: &Value,
    ) -> Result<HeldAgainst, Problem> {
        let key = &proposed.tagged.key;
        let schemas = self.schemas(proposed.named, asked).await?;
        // Under one key the closest scope that has it says which.
        let set: BTreeMap<&ConfigKey, &Stored> =
            schemas.iter().flat_map(|(_, of)| &of.set).map(|stored| (&stored.key, stored)).collect();
        if let Some(stored) = governing(key, set.keys().copied()).and_then(|found| set.get(found))
            && let Some(ConfigValue::Json(text)) = &stored.value
        {
            let schema = self.compiled.compiled(text).map_err(Problem::internal)?;
            let is_secret = proposed.tagged.tag.kind == Kind::Secret;
            let fits = if is_secret { schema.fits_as_secret(value) } else { schema.fits(value) };
            fits.map_err(|error| {
                let detail =
                    format!("The value does not fit {} ({}): {}.", stored.key, stored.scope, error.detail);
                violation(detail, &error.pointer, error.detail)
            })?;
        }
        Ok(schemas.into_iter().map(|(scope, of)| (scope, of.newest)).collect())
    }
}

fn violation(detail: String, pointer: &str, said: String) -> Problem {
    Problem::new(Code::ConfigSchemaViolation, detail).at(format!("/value{pointer}"), said)
}

fn no_flag(error: FlagRefused) -> Problem {
    violation(format!("The value is no flag: {}.", error.detail), &error.pointer, error.detail)
}

fn no_schema(error: NotASchema) -> Problem {
    violation(format!("The value is no JSON Schema: {}.", error.detail), &error.pointer, error.detail)
}

#[async_trait]
impl Validator for Fitting {
    async fn validate(&self, proposed: &Proposed<'_>) -> Result<HeldAgainst, Problem> {
        // Large values are not JSON.
        let Some(json) = proposed.json else { return Ok(HeldAgainst::new()) };
        let key = &proposed.tagged.key;
        if key.as_str().starts_with(SCHEMA_KEYS) {
            return self.compiled.compiled(json).map(|_| HeldAgainst::new()).map_err(no_schema);
        }
        // It was read before; what a parser says may show a secret.
        let invalid = |_| Problem::new(Code::ConfigValueInvalid, "The value is not JSON.");
        let value: Value = serde_json::from_slice(json).map_err(invalid)?;
        if key.as_str().starts_with(RULES) {
            SharedRules::check(&value).map_err(no_flag)?;
        } else if key.as_str().starts_with(FLAGS) {
            FlagDefinition::read(&value).map_err(no_flag)?;
        }
        match self.check_schema(proposed, proposed.schemas, &value).await {
            // Another one may count by now, and nobody would look at that.
            Err(_) if proposed.schemas == Schemas::Known => {
                self.check_schema(proposed, Schemas::Newest, &value).await
            }
            checked => checked,
        }
    }
}
