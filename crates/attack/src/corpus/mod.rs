//! The corpus: attempts by group. To add one, add it to its group's list; its
//! name must be new.

mod entering;
mod identity;
mod leaving;
mod objects;
mod own;
mod protocol;
mod reading;
mod rows;
mod server;
mod together;

use crate::attempt::Attempt;

/// A group of attempts.
#[derive(Debug, Clone, Copy)]
pub struct Group {
    /// Its name.
    pub name: &'static str,
    /// What is in it.
    pub attempts: &'static [Attempt],
}

/// All groups, in the order in which they run.
pub const GROUPS: &[Group] = &[
    Group { name: "identity", attempts: identity::ATTEMPTS },
    Group { name: "entering", attempts: entering::ATTEMPTS },
    Group { name: "rows", attempts: rows::ROWS },
    Group { name: "keys", attempts: rows::KEYS },
    Group { name: "filters", attempts: rows::FILTERS },
    Group { name: "names", attempts: objects::NAMES },
    Group { name: "definitions", attempts: objects::DEFINITIONS },
    Group { name: "own-objects", attempts: own::ATTEMPTS },
    Group { name: "copy-and-files", attempts: reading::COPY },
    Group { name: "catalogs", attempts: reading::CATALOGS },
    Group { name: "sessions", attempts: reading::SESSIONS },
    Group { name: "server", attempts: server::SERVER },
    Group { name: "extensions", attempts: server::EXTENSIONS },
    Group { name: "large-objects", attempts: server::LARGE_OBJECTS },
    Group { name: "plans", attempts: server::PLANS },
    Group { name: "together", attempts: together::ATTEMPTS },
    Group { name: "leftovers", attempts: leaving::ATTEMPTS },
    Group { name: "protocol", attempts: protocol::ATTEMPTS },
];

/// All attempts with their group; those of one group, or one of this name,
/// where it is given.
#[must_use]
pub fn named(only: Option<&str>) -> Vec<(&'static str, &'static Attempt)> {
    let all = GROUPS.iter().flat_map(|group| group.attempts.iter().map(|attempt| (group.name, attempt)));
    all.filter(|(group, attempt)| only.is_none_or(|only| only == *group || only == attempt.name)).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_plain_and_each_is_one() {
        let all = named(None);
        let mut seen: BTreeSet<&str> = GROUPS.iter().map(|group| group.name).collect();
        assert_eq!(seen.len(), GROUPS.len());
        for (_, attempt) in &all {
            let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
            assert!(attempt.name.bytes().all(is_plain), "{}", attempt.name);
            assert!(seen.insert(attempt.name), "{} is there twice", attempt.name);
            assert!(attempt.tries.ends_with('.'), "{}: one sentence", attempt.name);
        }
        assert!(all.len() >= 150, "{} attempts", all.len());
    }

    #[test]
    fn one_or_a_group_can_be_named() {
        let (group, attempt) = named(None)[0];
        assert_eq!(named(Some(attempt.name)).len(), 1);
        assert!(named(Some(group)).len() > 1);
        assert!(named(Some("nothing-of-the-kind")).is_empty());
    }
}
