//! Indexes in the pool form. The tenant's column comes first in every B-tree:
//! in a unique one because it must, in the others because every statement of a
//! tenant has the policy's condition. Other kinds stay as they are.

use std::collections::BTreeSet;

use pg_query::NodeEnum;
use pg_query::protobuf::{IndexElem, IndexStmt, SortByDir, SortByNulls};

use serde_json::Value;

use super::ast::{TENANT_COLUMN, json, node};
use super::model::{Calls, Expression, Index, calls_of};
use super::{Rewriter, Runs};
use crate::facts::{Facts, column_names};
use crate::names::index_columns;
use crate::refusal::RefusalKind;

impl Rewriter<'_> {
    pub(super) fn create_index(&mut self, create: &IndexStmt) {
        let Some(relation) = &create.relation else { return };
        let table = relation.relname.clone();
        if !self.model.tables.contains_key(&table) {
            let reason = format!("the app schema has no table {table}");
            self.refuse(relation.location, RefusalKind::UnknownObject, reason);
            return;
        }
        let mut index = Box::new(create.clone());
        if index.idxname.is_empty() {
            let elements = create.index_params.iter().chain(&create.index_including_params);
            let columns = index_columns(elements.filter_map(as_element));
            index.idxname = self.model.free_relation_name(&table, &columns, "idx");
        } else if index.if_not_exists && self.model.indexes.contains_key(&index.idxname) {
            return;
        }
        let is_tenant_first = matches!(index.access_method.as_str(), "" | "btree");
        if is_tenant_first {
            index.index_params.insert(0, node(NodeEnum::IndexElem(Box::new(tenant_element()))));
        }
        let elements = create.index_params.iter().chain(&create.index_including_params);
        let naming = self.model.naming(index_columns(elements.filter_map(as_element)));
        let columns = create.index_params.iter().filter_map(as_element).map(|element| element.name.clone());
        let expression = Expression {
            what: format!("the index {} of {table}", index.idxname),
            calls: calls_of(&Facts::of(&json(create))),
        };
        let noted = Index {
            table: table.clone(),
            columns: columns.collect(),
            uses: columns_of_index(create),
            definition: definition_of(create),
            naming,
            is_tenant_first,
            expression,
        };
        let name = index.idxname.clone();
        self.model.indexes.insert(name.clone(), noted);
        self.emit_tree(NodeEnum::IndexStmt(index), Runs::Owner);
        self.ask_unique_index(&table, create);
        if relation.inh {
            self.copy_index_down(&table, &name);
        }
    }

    pub(super) fn note_tenant_index(&mut self, name: String, table: String) {
        let noted = Index {
            table,
            columns: Vec::new(),
            uses: BTreeSet::new(),
            definition: String::new(),
            naming: self.model.naming(TENANT_COLUMN.to_owned()),
            is_tenant_first: true,
            expression: Expression { what: String::new(), calls: Calls::new() },
        };
        self.model.indexes.insert(name, noted);
    }
}

/// Every column that an index names: PostgreSQL drops it with any of them.
fn columns_of_index(create: &IndexStmt) -> BTreeSet<String> {
    let elements = create.index_params.iter().chain(&create.index_including_params);
    let mut names: BTreeSet<String> = elements.filter_map(as_element).map(|e| e.name.clone()).collect();
    names.remove("");
    names.extend(column_names(&json(create)));
    names
}

/// An index without its name and table; columns are compared apart from it.
fn definition_of(create: &IndexStmt) -> String {
    let bare = IndexStmt {
        idxname: String::new(),
        relation: None,
        if_not_exists: false,
        concurrent: false,
        ..create.clone()
    };
    let mut tree = json(&bare);
    forget_locations(&mut tree);
    tree.to_string()
}

fn forget_locations(tree: &mut Value) {
    match tree {
        Value::Array(items) => items.iter_mut().for_each(forget_locations),
        Value::Object(object) => {
            object.remove("location");
            object.values_mut().for_each(forget_locations);
        }
        _ => {}
    }
}

fn as_element(node: &pg_query::Node) -> Option<&IndexElem> {
    match node.node.as_ref()? {
        NodeEnum::IndexElem(element) => Some(element),
        _ => None,
    }
}

fn tenant_element() -> IndexElem {
    IndexElem {
        name: TENANT_COLUMN.to_owned(),
        ordering: SortByDir::SortbyDefault as i32,
        nulls_ordering: SortByNulls::SortbyNullsDefault as i32,
        ..IndexElem::default()
    }
}
