//! What the database name asks for: `app` is the login's own tenant,
//! `app/child/grandchild` one below it, by slugs.

use insula_domain::Slug;
use insula_route_map::TREE_DEPTH_MAX;

/// The path of slugs from the login's tenant downwards; empty for itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Scope(Vec<Slug>);

impl Scope {
    /// Reads a database name; without one it is `app`. `None` for every name
    /// that can be no scope.
    pub fn parse(database: Option<&[u8]>) -> Option<Self> {
        let Some(database) = database else { return Some(Self(Vec::new())) };
        let mut parts = std::str::from_utf8(database).ok()?.split('/');
        if parts.next() != Some("app") {
            return None;
        }
        let path: Vec<Slug> =
            parts.map(str::parse).take(TREE_DEPTH_MAX + 1).collect::<Result<_, _>>().ok()?;
        (path.len() <= TREE_DEPTH_MAX).then_some(Self(path))
    }

    /// Whether it is the login's own tenant.
    pub fn is_own(&self) -> bool {
        self.0.is_empty()
    }

    /// The slugs from the first child on.
    pub fn path(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(Slug::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn app_and_paths_of_slugs_are_scopes() {
        let path = |database: &str| {
            let scope = Scope::parse(Some(database.as_bytes()))?;
            Some(scope.path().map(str::to_owned).collect::<Vec<_>>().join(">"))
        };
        assert_eq!(path("app").as_deref(), Some(""));
        assert_eq!(path("app/child").as_deref(), Some("child"));
        assert_eq!(path("app/child/grand-child").as_deref(), Some("child>grand-child"));
        assert!(Scope::parse(None).unwrap().is_own());
    }

    #[test]
    fn nothing_else_is() {
        let deep = format!("app{}", "/a".repeat(TREE_DEPTH_MAX + 1));
        let names =
            ["", "App", "postgres", "app/", "app//a", "/app", "app/A", "app/..", "app\\a", "app/a ", &deep];
        for name in names {
            assert_eq!(Scope::parse(Some(name.as_bytes())), None, "{name}");
        }
        assert_eq!(Scope::parse(Some(b"app/\xff")), None);
    }
}
