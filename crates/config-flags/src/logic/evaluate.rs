//! What a rule comes to. Each step, and each part of a value that is made, is
//! paid for from a purse, so that no rule can hold a server up.

use serde_json::{Map, Value};
use thiserror::Error;

use super::coerce::{is_equal, is_same, is_truthy, number, order, text, value};
use super::{Operation, Rule};
use crate::{fractional, version};

/// What one evaluation may cost, in steps; a part of a value and 32 bytes of
/// text cost one each.
const PURSE: usize = 100_000;

/// The rule takes more steps than a rule may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the rule takes too many steps")]
pub struct TooCostly;

impl Rule {
    /// What the rule comes to with `data`.
    ///
    /// # Errors
    /// Where it takes too many steps.
    pub fn apply(&self, data: &Value) -> Result<Value, TooCostly> {
        self.apply_from(&mut Purse::default(), data)
    }

    /// As [`Rule::apply`], paid for from a purse that is others' too.
    ///
    /// # Errors
    /// Where it takes too many steps, or more than the purse has.
    pub fn apply_from(&self, purse: &mut Purse, data: &Value) -> Result<Value, TooCostly> {
        let given = purse.left.min(PURSE);
        let mut evaluation = Evaluation { root: data, left: given };
        let result = evaluation.rule(self, data);
        // What is left where it was too much is not worth the trouble of counting.
        let spent = if result.is_ok() { given - evaluation.left } else { given };
        purse.left -= spent;
        result
    }
}

/// From what evaluations are paid. One rule takes at most what a rule may cost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Purse {
    left: usize,
}

impl Default for Purse {
    fn default() -> Self {
        Self::for_rules(1)
    }
}

impl Purse {
    /// For so many of the most costly rules.
    #[must_use]
    pub fn for_rules(count: usize) -> Self {
        Self { left: PURSE.saturating_mul(count) }
    }

    /// Whether nothing is left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.left == 0
    }
}

struct Evaluation<'root> {
    root: &'root Value,
    left: usize,
}

impl Evaluation<'_> {
    fn pay(&mut self, steps: usize) -> Result<(), TooCostly> {
        self.left = self.left.checked_sub(steps).ok_or(TooCostly)?;
        Ok(())
    }

    /// Pays for a value that is about to be copied, looking no further than can
    /// be paid for.
    fn pay_for(&mut self, value: &Value) -> Result<(), TooCostly> {
        self.pay(1)?;
        match value {
            Value::String(text) => self.pay(text.len() / 32),
            Value::Array(members) => members.iter().try_for_each(|member| self.pay_for(member)),
            Value::Object(members) => members.values().try_for_each(|member| self.pay_for(member)),
            _ => Ok(()),
        }
    }

    fn copy(&mut self, value: &Value) -> Result<Value, TooCostly> {
        self.pay_for(value)?;
        Ok(value.clone())
    }

    fn rule(&mut self, rule: &Rule, data: &Value) -> Result<Value, TooCostly> {
        self.pay(1)?;
        match rule {
            Rule::Literal(value) => self.copy(value),
            Rule::List(members) => self.all(members, data).map(Value::Array),
            Rule::Operation { operation, arguments, is_bare } => match operation {
                Operation::If => self.conditional(arguments, data),
                Operation::And => self.connect(arguments, data, false),
                Operation::Or => self.connect(arguments, data, true),
                Operation::Map => self.map(arguments, data),
                Operation::Filter => self.filter(arguments, data),
                Operation::Reduce => self.reduce(arguments, data),
                Operation::All | Operation::None | Operation::Some => {
                    self.quantify(*operation, arguments, data)
                }
                _ => {
                    let mut values = self.all(arguments, data)?;
                    if let ([Value::Array(_)], true) = (values.as_slice(), *is_bare)
                        && let Some(Value::Array(inner)) = values.pop()
                    {
                        values = inner;
                    }
                    self.operate(*operation, &values, data)
                }
            },
        }
    }

    fn all(&mut self, rules: &[Rule], data: &Value) -> Result<Vec<Value>, TooCostly> {
        rules.iter().map(|rule| self.rule(rule, data)).collect()
    }

    fn conditional(&mut self, arguments: &[Rule], data: &Value) -> Result<Value, TooCostly> {
        for pair in arguments.chunks(2) {
            match pair {
                [otherwise] => return self.rule(otherwise, data),
                [condition, then] if is_truthy(&self.rule(condition, data)?) => return self.rule(then, data),
                _ => {}
            }
        }
        Ok(Value::Null)
    }

    /// `and` ends with the first that is false, `or` with the first that is true;
    /// else they are the last.
    fn connect(&mut self, arguments: &[Rule], data: &Value, until: bool) -> Result<Value, TooCostly> {
        let mut last = Value::Null;
        for argument in arguments {
            last = self.rule(argument, data)?;
            if is_truthy(&last) == until {
                break;
            }
        }
        Ok(last)
    }

    /// The list that is gone through, and the rule for each of its members.
    fn members<'rule>(
        &mut self,
        arguments: &'rule [Rule],
        data: &Value,
    ) -> Result<(Vec<Value>, Option<&'rule Rule>), TooCostly> {
        let Some(list) = arguments.first() else { return Ok((Vec::new(), None)) };
        let members = match self.rule(list, data)? {
            Value::Array(members) => members,
            _ => Vec::new(),
        };
        Ok((members, arguments.get(1)))
    }

    fn map(&mut self, arguments: &[Rule], data: &Value) -> Result<Value, TooCostly> {
        let (members, Some(rule)) = self.members(arguments, data)? else { return Ok(Value::Null) };
        members.iter().map(|member| self.rule(rule, member)).collect::<Result<_, _>>().map(Value::Array)
    }

    fn filter(&mut self, arguments: &[Rule], data: &Value) -> Result<Value, TooCostly> {
        let (members, Some(rule)) = self.members(arguments, data)? else { return Ok(Value::Null) };
        let mut kept = Vec::new();
        for member in members {
            if is_truthy(&self.rule(rule, &member)?) {
                kept.push(member);
            }
        }
        Ok(Value::Array(kept))
    }

    fn reduce(&mut self, arguments: &[Rule], data: &Value) -> Result<Value, TooCostly> {
        let (members, Some(rule)) = self.members(arguments, data)? else { return Ok(Value::Null) };
        let mut accumulator = match arguments.get(2) {
            Some(start) => self.rule(start, data)?,
            None => Value::Null,
        };
        for member in members {
            let mut both = Map::new();
            both.insert("current".to_owned(), member);
            both.insert("accumulator".to_owned(), accumulator);
            accumulator = self.rule(rule, &Value::Object(both))?;
        }
        Ok(accumulator)
    }

    fn quantify(
        &mut self,
        operation: Operation,
        arguments: &[Rule],
        data: &Value,
    ) -> Result<Value, TooCostly> {
        let (members, Some(rule)) = self.members(arguments, data)? else { return Ok(Value::Null) };
        // Nothing is all of nothing: an empty list is false for `all`.
        let (stops_at, found) = match operation {
            Operation::All if members.is_empty() => return Ok(Value::Bool(false)),
            Operation::All => (false, false),
            Operation::None => (true, false),
            _ => (true, true),
        };
        for member in &members {
            if is_truthy(&self.rule(rule, member)?) == stops_at {
                return Ok(Value::Bool(found));
            }
        }
        Ok(Value::Bool(!found))
    }

    fn operate(
        &mut self,
        operation: Operation,
        arguments: &[Value],
        data: &Value,
    ) -> Result<Value, TooCostly> {
        let made = match operation {
            Operation::Var => return self.var(arguments, data),
            Operation::Missing => missing(arguments, data),
            Operation::MissingSome => missing_some(arguments, data),
            Operation::Fractional => fractional::choose(arguments, self.who()),
            Operation::SemVer => version::compare(arguments),
            Operation::Merge => {
                let merged = arguments.iter().flat_map(|argument| match argument {
                    Value::Array(members) => members.clone(),
                    other => vec![other.clone()],
                });
                Value::Array(merged.collect())
            }
            Operation::Cat => Value::String(arguments.iter().map(text).collect()),
            Operation::Substr => substring(arguments),
            Operation::In => contains(arguments),
            Operation::StartsWith => affix(arguments, |text, part| text.starts_with(part)),
            Operation::EndsWith => affix(arguments, |text, part| text.ends_with(part)),
            Operation::Max | Operation::Min | Operation::Add | Operation::Multiply => {
                fold(operation, arguments)
            }
            Operation::Subtract | Operation::Divide | Operation::Modulo => arithmetic(operation, arguments),
            _ => Value::Bool(compare(operation, arguments)),
        };
        self.pay_for(&made)?;
        Ok(made)
    }

    fn var(&mut self, arguments: &[Value], data: &Value) -> Result<Value, TooCostly> {
        let found = match arguments.first() {
            None => Some(data),
            Some(path) => at(data, &text(path)),
        };
        match (found, arguments.get(1)) {
            (Some(found), _) if !found.is_null() => self.copy(found),
            (_, Some(default)) => self.copy(default),
            _ => Ok(Value::Null),
        }
    }

    /// Who asks, where a rule does not say it.
    fn who(&self) -> Option<String> {
        let key = self.root.get("targetingKey")?.as_str().filter(|key| !key.is_empty())?;
        let flag = at(self.root, "$flagd.flagKey").and_then(Value::as_str).unwrap_or_default();
        Some(format!("{flag}{key}"))
    }
}

/// What stands at a path with dots; the empty path is all of it.
fn at<'data>(data: &'data Value, path: &str) -> Option<&'data Value> {
    if path.is_empty() {
        return Some(data);
    }
    path.split('.').try_fold(data, |value, part| match value {
        Value::Object(members) => members.get(part),
        Value::Array(members) => members.get(part.parse::<usize>().ok()?),
        _ => None,
    })
}

fn is_missing(path: &Value, data: &Value) -> bool {
    at(data, &text(path)).is_none_or(|found| found.is_null() || found == "")
}

fn missing(arguments: &[Value], data: &Value) -> Value {
    let paths = match arguments {
        [Value::Array(paths), ..] => paths,
        paths => paths,
    };
    Value::Array(paths.iter().filter(|path| is_missing(path, data)).cloned().collect())
}

fn missing_some(arguments: &[Value], data: &Value) -> Value {
    let [needed, Value::Array(paths)] = arguments else { return Value::Array(Vec::new()) };
    let Value::Array(gone) = missing(paths, data) else { return Value::Null };
    #[expect(clippy::cast_precision_loss, reason = "a rule has few parts")]
    let present = (paths.len() - gone.len()) as f64;
    let is_enough = number(needed).is_some_and(|needed| present >= needed);
    Value::Array(if is_enough { Vec::new() } else { gone })
}

fn contains(arguments: &[Value]) -> Value {
    Value::Bool(match arguments {
        [part, Value::Array(members), ..] => members.iter().any(|member| is_same(part, member)),
        [part @ (Value::String(_) | Value::Number(_)), Value::String(whole), ..] => {
            whole.contains(&text(part))
        }
        _ => false,
    })
}

fn affix(arguments: &[Value], holds: impl Fn(&str, &str) -> bool) -> Value {
    match arguments {
        [Value::String(text), Value::String(part)] => Value::Bool(holds(text, part)),
        _ => Value::Null,
    }
}

/// From a place, so many characters; places and numbers below zero count from the end.
fn substring(arguments: &[Value]) -> Value {
    let Some(whole) = arguments.first().map(text) else { return Value::Null };
    let length = whole.chars().count();
    let place = |argument: Option<&Value>, limit: usize| -> Option<usize> {
        let float = number(argument?)?.trunc();
        #[expect(clippy::cast_precision_loss, reason = "texts are short")]
        let from_start = if float < 0.0 { float + limit as f64 } else { float };
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "bounded first")]
        Some(from_start.clamp(0.0, 1e9) as usize)
    };
    let start = place(arguments.get(1), length).unwrap_or(0).min(length);
    let rest = length - start;
    let count = place(arguments.get(2), rest).unwrap_or(rest);
    Value::String(whole.chars().skip(start).take(count).collect())
}

fn fold(operation: Operation, arguments: &[Value]) -> Value {
    let numbers: Option<Vec<f64>> = arguments.iter().map(number).collect();
    let Some(numbers) = numbers else { return Value::Null };
    let folded = match operation {
        Operation::Add => Some(numbers.iter().sum()),
        Operation::Multiply => Some(numbers.iter().product()),
        Operation::Max => numbers.into_iter().reduce(f64::max),
        _ => numbers.into_iter().reduce(f64::min),
    };
    folded.map_or(Value::Null, value)
}

fn arithmetic(operation: Operation, arguments: &[Value]) -> Value {
    let numbers: Option<Vec<f64>> = arguments.iter().map(number).collect();
    match (operation, numbers.as_deref()) {
        (Operation::Subtract, Some([only])) => value(-only),
        (Operation::Subtract, Some([left, right])) => value(left - right),
        (Operation::Divide, Some([left, right])) => value(left / right),
        (Operation::Modulo, Some([left, right])) => value(left % right),
        _ => Value::Null,
    }
}

fn compare(operation: Operation, arguments: &[Value]) -> bool {
    match (operation, arguments) {
        (Operation::Not, arguments) => !arguments.first().is_some_and(is_truthy),
        (Operation::Truthy, arguments) => arguments.first().is_some_and(is_truthy),
        (Operation::Equal, [left, right]) => is_equal(left, right),
        (Operation::Unequal, [left, right]) => !is_equal(left, right),
        (Operation::StrictlyEqual, [left, right]) => is_same(left, right),
        (Operation::StrictlyUnequal, [left, right]) => !is_same(left, right),
        (_, arguments) if arguments.len() >= 2 => arguments.windows(2).all(|pair| match pair {
            [left, right] => order(left, right).is_some_and(|order| match operation {
                Operation::Less => order.is_lt(),
                Operation::LessOrEqual => order.is_le(),
                Operation::Greater => order.is_gt(),
                Operation::GreaterOrEqual => order.is_ge(),
                _ => false,
            }),
            _ => false,
        }),
        _ => false,
    }
}
