//! Small pieces of parse trees, and names in SQL text.

use pg_query::protobuf::{self, Constraint};
use pg_query::{Node, NodeEnum};

use crate::names::text_of;

/// The column that keeps tenants apart.
pub(crate) const TENANT_COLUMN: &str = "tenant_id";

pub(crate) fn node(kind: NodeEnum) -> Node {
    Node { node: Some(kind) }
}

pub(crate) fn string(text: &str) -> Node {
    node(NodeEnum::String(protobuf::String { sval: text.to_owned() }))
}

pub(crate) fn strings(texts: &[String]) -> Vec<Node> {
    texts.iter().map(|text| string(text)).collect()
}

/// The texts of a list of string nodes.
pub(crate) fn texts(nodes: &[Node]) -> Vec<String> {
    nodes.iter().filter_map(text_of).collect()
}

pub(crate) fn constraint(inner: Constraint) -> Node {
    node(NodeEnum::Constraint(Box::new(inner)))
}

pub(crate) fn as_constraint(node: &Node) -> Option<&Constraint> {
    match node.node.as_ref()? {
        NodeEnum::Constraint(constraint) => Some(constraint),
        _ => None,
    }
}

/// The last part of a dotted name.
pub(crate) fn last_name(nodes: &[Node]) -> String {
    nodes.last().and_then(text_of).unwrap_or_default()
}

/// A name as SQL writes it, always quoted.
pub(crate) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A text as SQL writes it.
pub(crate) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// The tree below a node, as JSON.
pub(crate) fn json(node: &impl serde::Serialize) -> serde_json::Value {
    serde_json::to_value(node).unwrap_or_default()
}
