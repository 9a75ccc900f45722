//! Indexes in the pool form. The tenant's column comes first in every B-tree:
//! in a unique one because it must, in the others because every statement of a
//! tenant has the policy's condition. Other kinds stay as they are.

use pg_query::NodeEnum;
use pg_query::protobuf::{IndexElem, IndexStmt, SortByDir, SortByNulls};

use super::ast::{TENANT_COLUMN, json, node};
use super::model::{Calls, Expression, Index, calls_of};
use super::{Rewriter, Runs};
use crate::facts::Facts;
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
        let columns = create.index_params.iter().filter_map(as_element).map(|element| element.name.clone());
        let expression = Expression {
            what: format!("the index {} of {table}", index.idxname),
            calls: calls_of(&Facts::of(&json(create))),
        };
        let noted = Index { table, columns: columns.collect(), is_tenant_first, expression };
        self.model.indexes.insert(index.idxname.clone(), noted);
        self.emit_tree(NodeEnum::IndexStmt(index), Runs::Owner);
    }

    pub(super) fn note_tenant_index(&mut self, name: String, table: String) {
        let expression = Expression { what: String::new(), calls: Calls::new() };
        self.model
            .indexes
            .insert(name, Index { table, columns: Vec::new(), is_tenant_first: true, expression });
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
