//! Indexes that are built and dropped `CONCURRENTLY`, which PostgreSQL does in
//! no transaction: a version that consists of that is applied statement by
//! statement, and may be broken off and begun again.

use pg_query::NodeEnum;

use crate::refusal::{Refusal, RefusalKind};
use crate::source::Source;
use crate::syntax::Statement;

/// The index that a statement builds or drops `CONCURRENTLY`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConcurrentIndex {
    /// Its name; empty where the statement gives none.
    pub name: String,
    /// It is built rather than dropped.
    pub is_built: bool,
}

/// Reads a single statement; none where it is of another kind.
#[must_use]
pub fn concurrent_index(statement: &str) -> Option<ConcurrentIndex> {
    let parsed = pg_query::parse(statement, 0).ok()?.protobuf;
    concurrent_index_of(&parsed.stmts.into_iter().next()?.stmt?.node?)
}

pub(crate) fn concurrent_index_of(node: &NodeEnum) -> Option<ConcurrentIndex> {
    match node {
        NodeEnum::IndexStmt(index) if index.concurrent => {
            Some(ConcurrentIndex { name: index.idxname.clone(), is_built: true })
        }
        NodeEnum::DropStmt(drop) if drop.concurrent => {
            let parts = drop.objects.first().and_then(|object| match object.node.as_ref()? {
                NodeEnum::List(list) => list.items.last().and_then(crate::names::text_of),
                _ => None,
            });
            Some(ConcurrentIndex { name: parts.unwrap_or_default(), is_built: false })
        }
        _ => None,
    }
}

/// Refuses such statements beside others, and without a name.
pub(crate) fn refuse_concurrent(source: Source<'_>, statements: &[Statement]) -> Vec<Refusal> {
    let is_mixed = statements.iter().any(|statement| concurrent_index_of(&statement.node).is_none());
    let refusal = |statement: &Statement| {
        let index = concurrent_index_of(&statement.node)?;
        let reason = if is_mixed {
            "CONCURRENTLY cannot run in the transaction that a version is applied in: put such statements into a version \
             of their own, or leave the word out"
        } else if index.name.is_empty() {
            "a build that was broken off is found by the index's name: name it"
        } else {
            return None;
        };
        let text = statement.text(source.sql);
        Some(source.refuse(text, statement.start, RefusalKind::OutsideTransaction, reason))
    };
    statements.iter().filter_map(refusal).collect()
}

#[cfg(test)]
mod tests {
    use insula_domain::SchemaVersion;

    use super::*;
    use crate::folder::Migration;
    use crate::plain::check;

    fn migration(sql: &str) -> Migration {
        Migration::new(SchemaVersion(1), "test", sql)
    }

    #[test]
    fn concurrent_statements_are_alone_and_name_their_index() {
        let refused = check(&migration("CREATE INDEX CONCURRENTLY ON t (a)")).unwrap_err();
        assert_eq!(refused.0[0].kind, RefusalKind::OutsideTransaction);
        let plain = check(&migration("CREATE UNIQUE INDEX CONCURRENTLY \"I\" ON t (a);")).unwrap();
        let statements = plain.concurrent_statements().unwrap();
        let [(place, text)] = statements.as_slice() else { panic!("one") };
        assert_eq!((place.line, *text), (1, "CREATE UNIQUE INDEX CONCURRENTLY \"I\" ON t (a)"));
        let index = concurrent_index(text).unwrap();
        assert_eq!((index.name.as_str(), index.is_built), ("I", true));
        assert!(check(&migration("CREATE INDEX i ON t (a)")).unwrap().concurrent_statements().is_none());
    }
}
