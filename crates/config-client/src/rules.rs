//! What the application accepts. A rule that panics has not accepted.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use crate::read::cut;
use crate::value::Value;

/// What is about to be taken over.
#[derive(Debug, Clone, Copy)]
pub struct Proposal<'a> {
    /// Of which key.
    pub key: &'a str,
    /// The value; none where it is removed.
    pub new: Option<&'a Value>,
    /// The one in use; none where there is none.
    pub old: Option<&'a Value>,
}

pub(crate) type Check = dyn Fn(&Proposal<'_>) -> Result<(), String> + Send + Sync;

#[derive(Clone)]
struct Rule {
    prefix: String,
    is_key: bool,
    check: Arc<Check>,
}

/// All of them.
#[derive(Clone, Default)]
pub(crate) struct Rules(Vec<Rule>);

impl fmt::Debug for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Rules({})", self.0.len())
    }
}

impl Rules {
    pub(crate) fn add(&mut self, prefix: String, is_key: bool, check: Arc<Check>) {
        self.0.push(Rule { prefix, is_key, check });
    }

    /// Why it is not accepted.
    pub(crate) fn refuse(&self, proposal: &Proposal<'_>) -> Option<Arc<str>> {
        let covers = |rule: &&Rule| {
            if rule.is_key { rule.prefix == proposal.key } else { proposal.key.starts_with(&rule.prefix) }
        };
        self.0.iter().filter(covers).find_map(|rule| {
            match catch_unwind(AssertUnwindSafe(|| (rule.check)(proposal))) {
                Ok(Ok(())) => None,
                Ok(Err(reason)) if reason.is_empty() => Some("refused".into()),
                Ok(Err(reason)) => Some(cut(&reason).into()),
                Err(_) => Some("the rule panicked".into()),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_is_for_its_key_or_prefix_and_a_panic_accepts_nothing() {
        let mut rules = Rules::default();
        rules.add("a".to_owned(), true, Arc::new(|_| Err("no".to_owned())));
        rules.add("b".to_owned(), false, Arc::new(|_| panic!("oops")));
        rules.add("c".to_owned(), false, Arc::new(|_| Err(String::new())));
        let refuse = |key| rules.refuse(&Proposal { key, new: None, old: None }).map(|why| why.to_string());
        assert_eq!(refuse("a").as_deref(), Some("no"));
        assert_eq!(refuse("ab"), None);
        assert_eq!(refuse("bb").as_deref(), Some("the rule panicked"));
        assert_eq!(refuse("c").as_deref(), Some("refused"));
    }
}
