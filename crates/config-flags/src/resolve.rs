//! What a flag is for the one who asks: the variant that its rule chooses, or
//! the default one, and why.

use serde_json::{Map, Value, json};
use thiserror::Error;

use crate::definition::{FlagDefinition, SharedRules, State};
use crate::logic::{InvalidRule, Purse, Rule, text};

/// Why a flag is what it is. The words are OpenFeature's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// It has no rule: it is the same for everybody.
    Static,
    /// Its rule chose nothing.
    Default,
    /// Its rule chose it.
    TargetingMatch,
    /// It is not to be used.
    Disabled,
}

impl Reason {
    /// The word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Static => "STATIC",
            Self::Default => "DEFAULT",
            Self::TargetingMatch => "TARGETING_MATCH",
            Self::Disabled => "DISABLED",
        }
    }
}

/// What a flag is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Resolution<'flag> {
    /// The variant and its value; none leaves it to the application.
    pub chosen: Option<(&'flag str, &'flag Value)>,
    /// Why.
    pub reason: Reason,
}

/// A rule that did not come to a variant.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NotResolved {
    /// It is none, with the shared rules that there are.
    #[error("the rule at {pointer:?} is not valid: {detail}", pointer = .0.pointer, detail = .0.detail)]
    Rule(InvalidRule),
    /// It takes more than a rule may.
    #[error("the rule takes too many steps")]
    TooCostly,
    /// It chose what is no variant.
    #[error("the rule chose {0:?}, which is no variant")]
    NoVariant(String),
}

/// Who asks, for one flag after another, and from what that is paid.
#[derive(Debug, Clone)]
pub struct Asking {
    context: Value,
    timestamp: i64,
    purse: Purse,
}

impl Asking {
    /// With a context, at a time in seconds since 1970.
    #[must_use]
    pub fn new(context: Map<String, Value>, timestamp: i64, purse: Purse) -> Self {
        Self { context: Value::Object(context), timestamp, purse }
    }

    /// Whether nothing is left to pay from.
    #[must_use]
    pub fn is_broke(&self) -> bool {
        self.purse.is_empty()
    }

    fn apply(&mut self, name: &str, rule: &Rule) -> Result<Value, NotResolved> {
        if let Value::Object(context) = &mut self.context {
            context.insert("$flagd".to_owned(), json!({"flagKey": name, "timestamp": self.timestamp}));
        }
        rule.apply_from(&mut self.purse, &self.context).map_err(|_| NotResolved::TooCostly)
    }
}

/// A flag that can be asked.
#[derive(Debug, Clone)]
pub struct Flag {
    definition: FlagDefinition,
    rule: Option<Result<Rule, InvalidRule>>,
}

impl Flag {
    /// Makes it ready. A rule that refers to what there is not is told by
    /// [`Flag::resolve`].
    #[must_use]
    pub fn new(definition: FlagDefinition, shared: &SharedRules) -> Self {
        let rule = definition.targeting.as_ref().map(|rule| Rule::new(rule, shared));
        Self { definition, rule }
    }

    /// Whether its rule can be applied: it refers to no shared rule that there
    /// is not.
    #[must_use]
    pub const fn is_whole(&self) -> bool {
        !matches!(self.rule, Some(Err(_)))
    }

    /// Its definition.
    #[must_use]
    pub const fn definition(&self) -> &FlagDefinition {
        &self.definition
    }

    /// What it is for the one who asks with `context`. `timestamp` is now, in
    /// seconds since 1970.
    ///
    /// # Errors
    /// Where its rule does not come to a variant.
    pub fn resolve(
        &self,
        name: &str,
        context: &Map<String, Value>,
        timestamp: i64,
    ) -> Result<Resolution<'_>, NotResolved> {
        self.answer(name, &mut Asking::new(context.clone(), timestamp, Purse::default()))
    }

    /// What it is for the one who asks, who may ask for others too.
    ///
    /// # Errors
    /// Where its rule does not come to a variant.
    pub fn answer(&self, name: &str, asking: &mut Asking) -> Result<Resolution<'_>, NotResolved> {
        if self.definition.state == State::Disabled {
            return Ok(Resolution { chosen: None, reason: Reason::Disabled });
        }
        let chosen = match &self.rule {
            None => None,
            Some(Err(error)) => return Err(NotResolved::Rule(error.clone())),
            Some(Ok(rule)) => Some(asking.apply(name, rule)?),
        };
        match chosen {
            Some(Value::Null) => Ok(self.default(Reason::Default)),
            Some(Value::Array(_)) => Err(NotResolved::NoVariant("a list".to_owned())),
            Some(Value::Object(_)) => Err(NotResolved::NoVariant("an object".to_owned())),
            Some(variant) => self.variant(&text(&variant)),
            None if self.definition.default_variant.is_some() => Ok(self.default(Reason::Static)),
            None => Ok(self.default(Reason::Default)),
        }
    }

    fn default(&self, reason: Reason) -> Resolution<'_> {
        let entry = self.definition.default_variant.as_ref();
        let entry = entry.and_then(|name| self.definition.variants.get_key_value(name));
        Resolution { chosen: entry.map(|(name, value)| (name.as_str(), value)), reason }
    }

    fn variant(&self, name: &str) -> Result<Resolution<'_>, NotResolved> {
        let entry = self.definition.variants.get_key_value(name);
        let (name, value) = entry.ok_or_else(|| NotResolved::NoVariant(name.chars().take(60).collect()))?;
        Ok(Resolution { chosen: Some((name, value)), reason: Reason::TargetingMatch })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flag(targeting: Value, shared: &SharedRules) -> Flag {
        let definition = json!({
            "state": "ENABLED",
            "variants": {"true": "yes", "false": "no", "7": "seven"},
            "defaultVariant": "false",
            "targeting": targeting,
        });
        Flag::new(FlagDefinition::read(&definition).unwrap(), shared)
    }

    fn asked(targeting: Value, context: Value) -> Result<(String, Reason), NotResolved> {
        let flag = flag(targeting, &SharedRules::default());
        let context = context.as_object().unwrap().clone();
        let resolution = flag.resolve("banner", &context, 1_700_000_000)?;
        Ok((resolution.chosen.unwrap().0.to_owned(), resolution.reason))
    }

    #[test]
    fn the_rule_chooses_or_leaves_it_to_the_default() {
        let staff = json!({"ends_with": [{"var": "email"}, "@insula.test"]});
        let ada = json!({"email": "ada@insula.test"});
        assert_eq!(asked(staff.clone(), ada), Ok(("true".into(), Reason::TargetingMatch)));
        assert_eq!(
            asked(staff.clone(), json!({"email": "x@y.test"})),
            Ok(("false".into(), Reason::TargetingMatch))
        );
        assert_eq!(asked(staff, json!({})), Ok(("false".into(), Reason::Default)), "null is no choice");
        assert_eq!(asked(json!({"+": [3, 4]}), json!({})), Ok(("7".into(), Reason::TargetingMatch)));
        assert_eq!(asked(Value::Null, json!({})), Ok(("false".into(), Reason::Static)));
        assert_eq!(
            asked(json!({"cat": ["may", "be"]}), json!({})),
            Err(NotResolved::NoVariant("maybe".into()))
        );
        assert!(asked(json!({"map": [[1], 1]}), json!({})).is_err());
    }

    #[test]
    fn many_flags_are_paid_for_from_one_purse() {
        let costly = json!({"map": [(0..900).collect::<Vec<_>>(), {"+": [{"var": ""}, 1]}]});
        let costly = json!({"if": [costly, "true", "false"]});
        let flag = flag(costly, &SharedRules::default());
        let mut asking = Asking::new(Map::new(), 0, Purse::for_rules(1));
        let answered = (0..1_000).take_while(|_| flag.answer("banner", &mut asking).is_ok()).count();
        assert!((1..50).contains(&answered) && asking.is_broke(), "{answered}");
        // Canary: each on its own has a purse of its own.
        assert!((0..50).all(|_| flag.resolve("banner", &Map::new(), 0).is_ok()));
    }

    #[test]
    fn a_rule_sees_the_flag_and_the_time_and_not_what_a_client_says_of_them() {
        let rule = json!({"and": [
            {"==": [{"var": "$flagd.flagKey"}, "banner"]},
            {">": [{"var": "$flagd.timestamp"}, 1_600_000_000]}
        ]});
        let forged = json!({"$flagd": {"flagKey": "other", "timestamp": 0}});
        assert_eq!(asked(rule, forged), Ok(("true".into(), Reason::TargetingMatch)));
    }

    #[test]
    fn shared_rules_are_used_and_missed() {
        let mut shared = SharedRules::default();
        shared.insert("staff", json!({"in": [{"var": "role"}, ["admin", "editor"]]}));
        shared.insert("loop", json!({"!": {"$ref": "loop"}}));
        let context = json!({"role": "editor"}).as_object().unwrap().clone();
        let known = flag(json!({"if": [{"$ref": "staff"}, "7", null]}), &shared);
        assert_eq!(known.resolve("f", &context, 0).unwrap().chosen.unwrap().1, "seven");
        for missing in ["none", "loop"] {
            let flag = flag(json!({"if": [{"$ref": missing}, "7", null]}), &shared);
            assert!(matches!(flag.resolve("f", &context, 0), Err(NotResolved::Rule(_))), "{missing}");
        }
    }

    #[test]
    fn a_disabled_flag_and_one_without_a_default_choose_nothing() {
        for (definition, reason) in [
            (
                json!({"state": "DISABLED", "variants": {"on": true}, "defaultVariant": "on"}),
                Reason::Disabled,
            ),
            (json!({"state": "ENABLED", "variants": {"on": true}}), Reason::Default),
            (
                json!({"state": "ENABLED", "variants": {"on": true}, "targeting": {"var": "x"}}),
                Reason::Default,
            ),
        ] {
            let flag = Flag::new(FlagDefinition::read(&definition).unwrap(), &SharedRules::default());
            let resolution = flag.resolve("f", &Map::new(), 0).unwrap();
            assert_eq!(resolution, Resolution { chosen: None, reason }, "{definition}");
        }
    }
}
