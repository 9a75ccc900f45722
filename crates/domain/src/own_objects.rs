//! What a tenant made itself, beside the app schema, in a schema of its own.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::isolation::Isolation;

/// An object that a tenant made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OwnObject {
    /// What it is, as PostgreSQL calls it: `table`, `view`, `function`, `type`, `index`.
    pub kind: String,
    /// Its name in its schema, of a function with the types of its arguments.
    pub name: String,
    /// About how many rows it has; none where it has none of its own, or none were counted yet.
    #[serde(default)]
    pub rows: Option<i64>,
    /// What it takes on disk with its indexes, in bytes; none where it takes nothing of its own.
    #[serde(default)]
    pub bytes: Option<i64>,
}

/// Which of a tenant's own objects would have no place after a move to an
/// isolation model: where tenants share tables all of them, since nobody makes
/// objects there; elsewhere none.
#[must_use]
pub fn in_the_way(objects: &[OwnObject], target: Isolation) -> Vec<&OwnObject> {
    match target {
        Isolation::Pool => objects.iter().collect(),
        Isolation::Schema | Isolation::Database | Isolation::Cluster => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_of_a_tenants_own_is_in_the_way_of_a_pool_and_of_nothing_else() {
        let of = |kind: &str, name: &str| OwnObject {
            kind: kind.to_owned(),
            name: name.to_owned(),
            rows: None,
            bytes: None,
        };
        let objects = [of("table", "leads"), of("view", "totals"), of("function", "score(integer)")];
        assert_eq!(in_the_way(&objects, Isolation::Pool), objects.iter().collect::<Vec<_>>());
        for kept in [Isolation::Schema, Isolation::Database, Isolation::Cluster] {
            assert!(in_the_way(&objects, kept).is_empty(), "{kept}");
        }
        assert!(in_the_way(&[], Isolation::Pool).is_empty());
    }
}
