//! What tools write that is no part of an app schema: rights for their own
//! role, the schema `public`, `CONCURRENTLY`. It is left out or written
//! otherwise, with a note; everything else stays as it was written.

use std::ops::Range;

use pg_query::NodeEnum;
use pg_query::protobuf::{AlterTableType, ObjectType, RoleSpecType, ScanToken, Token};

use super::rows::identifier;
use crate::names::text_of;
use crate::syntax::{offset, tokens_of};

/// What becomes of a statement.
#[derive(Debug)]
pub(super) enum Normalised {
    /// It is no part of an app schema; why.
    LeftOut(&'static str),
    /// Its text, and what was changed in it.
    Taken { sql: String, notes: Vec<&'static str> },
}

/// Brings a statement into the form that a version has. `role` is the tool's.
pub(super) fn normalise(text: &str, node: &NodeEnum, role: &str) -> Normalised {
    if let Some(why) = left_out(node, role) {
        return Normalised::LeftOut(why);
    }
    let mut notes = Vec::new();
    let mut sql = text.to_owned();
    if let NodeEnum::CreateExtensionStmt(create) = node {
        sql = format!("CREATE EXTENSION IF NOT EXISTS {}", quoted_extension(&create.extname));
        if !create.options.is_empty() {
            notes.push("Insula decides the schema and the version of extensions");
        }
        return Normalised::Taken { sql, notes };
    }
    if is_concurrent(node) {
        sql = without_concurrently(&sql);
        notes.push("without CONCURRENTLY, as a version runs in one transaction");
    }
    let unqualified = without_public(&sql, 0);
    if unqualified != sql {
        sql = unqualified;
        notes.push("without the schema public, as the placement decides the schema");
    }
    Normalised::Taken { sql, notes }
}

fn quoted_extension(name: &str) -> String {
    if name.contains('-') { format!("\"{name}\"") } else { identifier(name) }
}

fn left_out(node: &NodeEnum, role: &str) -> Option<&'static str> {
    let rights = "left out: rights and owners follow from the placement";
    let place = "left out: the placement decides the schema";
    let is_own = |spec: &pg_query::protobuf::RoleSpec| {
        spec.rolename == role
            || [
                RoleSpecType::RolespecCurrentRole,
                RoleSpecType::RolespecCurrentUser,
                RoleSpecType::RolespecSessionUser,
            ]
            .iter()
            .any(|kind| *kind as i32 == spec.roletype)
    };
    match node {
        NodeEnum::GrantStmt(grant) => {
            let on_public = grant.objtype == ObjectType::ObjectSchema as i32
                && grant.objects.iter().all(|object| text_of(object).as_deref() == Some("public"));
            let to_own = grant
                .grantees
                .iter()
                .all(|grantee| matches!(&grantee.node, Some(NodeEnum::RoleSpec(spec)) if is_own(spec)));
            (on_public || to_own).then_some(rights)
        }
        NodeEnum::AlterOwnerStmt(alter) => alter.newowner.as_ref().is_some_and(is_own).then_some(rights),
        NodeEnum::AlterTableStmt(alter) => {
            let is_owner = |node: &pg_query::Node| {
                matches!(&node.node, Some(NodeEnum::AlterTableCmd(cmd))
                    if cmd.subtype == AlterTableType::AtChangeOwner as i32
                        && cmd.newowner.as_ref().is_some_and(is_own))
            };
            (!alter.cmds.is_empty() && alter.cmds.iter().all(is_owner)).then_some(rights)
        }
        NodeEnum::CreateSchemaStmt(create) => {
            (create.schemaname == "public" && create.schema_elts.is_empty()).then_some(place)
        }
        NodeEnum::CommentStmt(comment) => match ObjectType::try_from(comment.objtype) {
            Ok(ObjectType::ObjectSchema) => Some(place),
            Ok(ObjectType::ObjectExtension) => Some("left out: an extension belongs to the database"),
            _ => None,
        },
        NodeEnum::CreateExtensionStmt(create) => {
            (create.extname == "plpgsql").then_some("left out: plpgsql is there already")
        }
        _ => None,
    }
}

fn is_concurrent(node: &NodeEnum) -> bool {
    match node {
        NodeEnum::IndexStmt(index) => index.concurrent,
        NodeEnum::DropStmt(drop) => drop.concurrent,
        NodeEnum::RefreshMatViewStmt(refresh) => refresh.concurrent,
        NodeEnum::AlterTableStmt(alter) => alter.cmds.iter().any(|node| {
            let Some(NodeEnum::AlterTableCmd(cmd)) = &node.node else { return false };
            matches!(cmd.def.as_ref().and_then(|def| def.node.as_ref()),
                Some(NodeEnum::PartitionCmd(partition)) if partition.concurrent)
        }),
        _ => false,
    }
}

fn range(token: &ScanToken) -> Range<usize> {
    offset(token.start)..offset(token.end)
}

fn cut(sql: &str, ranges: &[Range<usize>]) -> String {
    let mut left = String::with_capacity(sql.len());
    let mut at = 0;
    for range in ranges {
        left.push_str(&sql[at..range.start]);
        at = range.end;
    }
    left.push_str(&sql[at..]);
    left
}

fn without_concurrently(sql: &str) -> String {
    let tokens = tokens_of(sql);
    let Some(index) = tokens.iter().position(|token| token.token == Token::Concurrently as i32) else {
        return sql.to_owned();
    };
    let start = offset(tokens[index].start);
    let end = tokens.get(index + 1).map_or(sql.len(), |next| offset(next.start));
    cut(sql, std::slice::from_ref(&(start..end)))
}

/// Functions that take the name of a sequence or table as text.
const TAKES_NAME: [&str; 4] = ["nextval", "currval", "setval", "pg_get_serial_sequence"];

/// The text without `public.` before names, in the bodies of functions and in
/// names that are given as text as well.
fn without_public(sql: &str, depth: usize) -> String {
    if depth > 2 || !sql.to_ascii_lowercase().contains("public") {
        return sql.to_owned();
    }
    let tokens = tokens_of(sql);
    let word = |index: usize| tokens.get(index).and_then(|token| sql.get(range(token))).unwrap_or("");
    let is_public = |text: &str| text.eq_ignore_ascii_case("public") || text == "\"public\"";
    let mut result = String::with_capacity(sql.len());
    let mut at = 0;
    for (index, token) in tokens.iter().enumerate() {
        let Range { start, end } = range(token);
        if start < at {
            continue;
        }
        let before = index.checked_sub(1).map_or("", word);
        if is_public(word(index)) && word(index + 1) == "." && before != "." {
            result.push_str(&sql[at..start]);
            at = range(&tokens[index + 1]).end;
        } else if token.token == Token::Sconst as i32 {
            let text = &sql[start..end];
            let called = index.checked_sub(2).map_or("", word).to_ascii_lowercase();
            let names_something = word(index + 1) == "::"
                && word(index + 2).to_ascii_lowercase().starts_with("reg")
                || before == "(" && TAKES_NAME.contains(&called.as_str());
            let changed = if text.starts_with('$') {
                without_public(text_in_dollars(text).1, depth + 1)
            } else if names_something {
                text_in_quotes(text)
            } else {
                continue;
            };
            let (tag, _) = if text.starts_with('$') { text_in_dollars(text) } else { ("", "") };
            result.push_str(&sql[at..start]);
            result.push_str(&format!("{tag}{changed}{tag}"));
            at = end;
        }
    }
    result.push_str(&sql[at..]);
    result
}

/// The tag and the text of a constant in dollars.
fn text_in_dollars(constant: &str) -> (&str, &str) {
    let tag_end = constant[1..].find('$').map_or(1, |at| at + 2);
    let (tag, rest) = constant.split_at(tag_end);
    (tag, rest.strip_suffix(tag).unwrap_or(rest))
}

/// A constant in quotes that is a name, without `public.`.
fn text_in_quotes(constant: &str) -> String {
    let inner = constant.strip_prefix('\'').unwrap_or(constant);
    let short = inner.strip_prefix("public.").or_else(|| inner.strip_prefix("\"public\"."));
    short.map_or_else(|| constant.to_owned(), |short| format!("'{short}"))
}
