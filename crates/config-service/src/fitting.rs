//! Values that have to fit: a JSON Schema that is set for their key, and what
//! flags, shared rules and schemas are themselves.

use std::collections::BTreeMap;

use async_trait::async_trait;
use insula_config_flags::{FlagDefinition, FlagRefused, SharedRules};
use insula_config_model::{ConfigKey, ConfigValue, KeyPrefix, Scope, Stored};
use insula_config_schema::{NotASchema, SCHEMA_KEYS, SchemaCache, governing};
use insula_config_store::ConfigStore;
use insula_domain::RegionName;
use insula_problem::{Code, Problem};
use serde_json::Value;

use crate::directory::Named;
use crate::flagd::{FLAGS, RULES};
use crate::validate::{Proposed, Validator};

/// The most schemas that count for a scope.
const SCHEMAS_MAX: u32 = 1_000;

/// The most compiled schemas that are kept.
const COMPILED_MAX: usize = 500;

/// Refuses values that do not fit.
#[derive(Debug)]
pub struct Fitting {
    regions: BTreeMap<RegionName, ConfigStore>,
    provider: ConfigStore,
    compiled: SchemaCache,
}

impl Fitting {
    /// By the schemas that are in the stores.
    #[must_use]
    pub fn new(regions: BTreeMap<RegionName, ConfigStore>, provider: ConfigStore) -> Self {
        Self { regions, provider, compiled: SchemaCache::new(COMPILED_MAX) }
    }

    /// The schema of a key as a scope sees it, and its own key.
    async fn schema(&self, named: &Named, key: &ConfigKey) -> Result<Option<Stored>, Problem> {
        let (store, scopes) = match named {
            Named::Tenant(lineage) => (self.regions.get(&lineage.region), lineage.scopes()),
            Named::Provider(Scope::Platform) => (Some(&self.provider), vec![Scope::Platform]),
            Named::Provider(scope) => (Some(&self.provider), vec![Scope::Platform, scope.clone()]),
        };
        let away = || Problem::new(Code::Unavailable, "This process does not serve the tenant's region.");
        let prefix: KeyPrefix = SCHEMA_KEYS.parse().map_err(Problem::internal)?;
        let page = store.ok_or_else(away)?.list(&scopes, &prefix, None, SCHEMAS_MAX + 1).await?;
        if page.next.is_some() || page.keys.len() > SCHEMAS_MAX as usize {
            let detail = format!("There are more than {SCHEMAS_MAX} schemas.");
            return Err(Problem::new(Code::QuotaExceeded, detail));
        }
        // The strongest scope that has one says which.
        let set: Vec<Stored> = page
            .keys
            .into_iter()
            .filter_map(|one| {
                let mut set = one.layers.into_iter().filter_map(|layer| layer.stored);
                set.rfind(|stored| stored.value.is_some())
            })
            .collect();
        let found = governing(key, set.iter().map(|stored| &stored.key)).cloned();
        Ok(found.and_then(|found| set.into_iter().find(|stored| stored.key == found)))
    }

    async fn check_schema(&self, named: &Named, key: &ConfigKey, value: &Value) -> Result<(), Problem> {
        let Some(stored) = self.schema(named, key).await? else { return Ok(()) };
        let Some(ConfigValue::Json(text)) = &stored.value else { return Ok(()) };
        let schema = self.compiled.compiled(text).map_err(Problem::internal)?;
        schema.fits(value).map_err(|error| {
            let detail =
                format!("The value does not fit {} ({}): {}.", stored.key, stored.scope, error.detail);
            violation(detail, &error.pointer, error.detail)
        })
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
    async fn validate(&self, proposed: &Proposed<'_>) -> Result<(), Problem> {
        // Large values are not JSON.
        let Some(json) = proposed.json else { return Ok(()) };
        let key = &proposed.tagged.key;
        if key.as_str().starts_with(SCHEMA_KEYS) {
            return self.compiled.compiled(json).map(drop).map_err(no_schema);
        }
        // It was read before; what a parser says may show a secret.
        let invalid = |_| Problem::new(Code::ConfigValueInvalid, "The value is not JSON.");
        let value: Value = serde_json::from_slice(json).map_err(invalid)?;
        if key.as_str().starts_with(RULES) {
            SharedRules::check(&value).map_err(no_flag)?;
        } else if key.as_str().starts_with(FLAGS) {
            FlagDefinition::read(&value).map_err(no_flag)?;
        }
        self.check_schema(proposed.named, key, &value).await
    }
}
