//! JsonLogic: rules that are JSON, with the operations that flagd's schema of
//! targeting names and no others. A rule is read once and checked then, so that
//! an evaluation can only fail by taking too long.
//! Source: <https://jsonlogic.com/operations.html>.

mod coerce;
mod evaluate;
mod operation;

use serde_json::{Map, Value};

pub(crate) use coerce::text;
pub use evaluate::{Purse, TooCostly};
pub use operation::Operation;

use crate::definition::{SharedRules, escaped};

/// The most parts of a rule, with those of the shared rules that it uses.
const PARTS_MAX: usize = 10_000;

/// How deep a rule may be, with the shared rules that it uses. JSON itself is
/// read no deeper than 128 levels.
const DEPTH_MAX: usize = 200;

/// The text is no rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidRule {
    /// Where, as a JSON pointer into the rule.
    pub pointer: String,
    /// What is wrong there.
    pub detail: String,
}

/// A rule that can be applied.
#[derive(Debug, Clone, PartialEq)]
pub enum Rule {
    /// What stands there.
    Literal(Value),
    /// A list whose members are rules.
    List(Vec<Rule>),
    /// An operation on what its arguments come to.
    Operation {
        /// Which.
        operation: Operation,
        /// On what.
        arguments: Vec<Rule>,
        /// Whether its only argument was written without a list around it: a
        /// list that it comes to is then the list of the arguments.
        is_bare: bool,
    },
}

impl Rule {
    /// Reads a rule.
    ///
    /// # Errors
    /// Where it uses an operation or a shared rule that there is not, or is too large.
    pub fn new(value: &Value, shared: &SharedRules) -> Result<Self, InvalidRule> {
        Reader { shared: Some(shared), parts: 0 }.read(value, &mut Vec::new())
    }

    /// Whether a rule can be read, whatever shared rules there will be.
    ///
    /// # Errors
    /// Where it cannot.
    pub fn check(value: &Value) -> Result<(), InvalidRule> {
        Reader { shared: None, parts: 0 }.read(value, &mut Vec::new()).map(drop)
    }
}

struct Reader<'shared> {
    shared: Option<&'shared SharedRules>,
    parts: usize,
}

impl Reader<'_> {
    fn read(&mut self, value: &Value, path: &mut Vec<String>) -> Result<Rule, InvalidRule> {
        self.parts += 1;
        if self.parts > PARTS_MAX || path.len() > DEPTH_MAX {
            return Err(invalid(path, "the rule is too large, or a shared rule uses itself"));
        }
        match value {
            Value::Array(members) => self.list(members, path).map(Rule::List),
            Value::Object(members) if !members.is_empty() => self.operation(members, path),
            literal => Ok(Rule::Literal(literal.clone())),
        }
    }

    fn list(&mut self, members: &[Value], path: &mut Vec<String>) -> Result<Vec<Rule>, InvalidRule> {
        let mut rules = Vec::with_capacity(members.len().min(PARTS_MAX));
        for (index, member) in members.iter().enumerate() {
            path.push(index.to_string());
            rules.push(self.read(member, path)?);
            path.pop();
        }
        Ok(rules)
    }

    fn operation(
        &mut self,
        members: &Map<String, Value>,
        path: &mut Vec<String>,
    ) -> Result<Rule, InvalidRule> {
        let mut all = members.iter();
        let (Some((name, arguments)), None) = (all.next(), all.next()) else {
            return Err(invalid(path, "an operation is an object with one member"));
        };
        if name == "$ref" {
            return self.reference(arguments, path);
        }
        let operation = Operation::named(name).ok_or_else(|| {
            invalid(path, format!("there is no operation {:?}", name.chars().take(60).collect::<String>()))
        })?;
        path.push(name.clone());
        let (arguments, is_bare) = match arguments {
            Value::Array(members) => (self.list(members, path)?, false),
            bare => (vec![self.read(bare, path)?], true),
        };
        if !operation.takes(arguments.len(), is_bare) {
            return Err(invalid(path, format!("{name} does not take {} arguments", arguments.len())));
        }
        path.pop();
        Ok(Rule::Operation { operation, arguments, is_bare })
    }

    fn reference(&mut self, name: &Value, path: &mut Vec<String>) -> Result<Rule, InvalidRule> {
        let name = name.as_str().ok_or_else(|| invalid(path, "$ref names a shared rule"))?;
        let Some(shared) = self.shared else { return Ok(Rule::Literal(Value::Null)) };
        let rule = shared.get(name).ok_or_else(|| {
            invalid(path, format!("there is no shared rule {:?}", name.chars().take(60).collect::<String>()))
        })?;
        path.push("$ref".to_owned());
        let rule = self.read(rule, path)?;
        path.pop();
        Ok(rule)
    }
}

fn invalid(path: &[String], detail: impl Into<String>) -> InvalidRule {
    let pointer: String = path.iter().take(40).map(|part| format!("/{}", escaped(part))).collect();
    InvalidRule { pointer, detail: detail.into() }
}

#[cfg(test)]
mod tests;
