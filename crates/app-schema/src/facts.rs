//! What a parse tree names: relations, functions, types, and the schemas that
//! qualify them. Reads the tree as JSON and so looks at every node there is,
//! also of kinds that nothing else here knows.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use crate::syntax::offset;

/// Functions that take the name of a relation as text.
const TAKES_RELATION_NAME: [&str; 6] =
    ["nextval", "currval", "setval", "to_regclass", "pg_get_serial_sequence", "pg_relation_size"];

/// A name, with the schema that it is qualified with, if any.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Name {
    pub(crate) schema: Option<String>,
    pub(crate) name: String,
    /// Byte offset in the source, where the parser knows it.
    pub(crate) location: Option<usize>,
}

/// What a tree names.
#[derive(Debug, Clone, Default)]
pub(crate) struct Facts {
    /// Relations that are read or written.
    pub(crate) relations: Vec<Name>,
    /// Functions that are called by name.
    pub(crate) functions: Vec<Name>,
    /// Names behind a dot, which PostgreSQL takes as a function of the row
    /// where the row has no such column.
    pub(crate) fields: BTreeSet<String>,
    /// Everything that is qualified with a schema.
    pub(crate) qualified: Vec<Name>,
    /// Kinds of the statements in it, at every level.
    pub(crate) statements: BTreeSet<String>,
    /// Texts of string constants.
    pub(crate) strings: Vec<String>,
    /// How many `ON CONFLICT (…)` name columns.
    pub(crate) conflict_targets: usize,
}

impl Facts {
    /// What the tree names.
    pub(crate) fn of(tree: &Value) -> Self {
        let mut facts = Self::default();
        facts.walk(tree);
        facts
    }

    /// Adds what another tree names.
    pub(crate) fn add(&mut self, tree: &Value) {
        self.walk(tree);
    }

    fn walk(&mut self, value: &Value) {
        match value {
            Value::Array(items) => items.iter().for_each(|item| self.walk(item)),
            Value::Object(object) => {
                self.note(object);
                object.values().for_each(|item| self.walk(item));
            }
            _ => {}
        }
    }

    fn note(&mut self, object: &Map<String, Value>) {
        self.note_statement(object);
        let location = object
            .get("location")
            .and_then(Value::as_i64)
            .filter(|at| *at >= 0)
            .and_then(|at| i32::try_from(at).ok());
        let location = location.map(offset);
        if let (Some(name), Some(schema)) = (text(object, "relname"), text(object, "schemaname")) {
            let relation = Name { schema: some(schema), name: name.to_owned(), location };
            self.note_qualified(&relation);
            self.relations.push(relation);
        }
        for key in [
            "funcname",
            "names",
            "objname",
            "domainname",
            "opclass",
            "collation",
            "collname",
            "type_name",
            "opername",
            "defnames",
        ] {
            let Some(name) = object.get(key).and_then(|list| name_of(list, location)) else { continue };
            self.note_qualified(&name);
            if key == "funcname" && object.contains_key("func_variadic") {
                self.note_relation_text(object, &name);
                self.functions.push(name);
            }
        }
        for (node, key) in [("AExpr", "name"), ("SubLink", "oper_name"), ("SortBy", "use_op")] {
            let operator = object.get(node).and_then(|node| name_of(node.get(key)?, location));
            operator.iter().for_each(|name| self.note_qualified(name));
        }
        if let Some(cast) = object.get("TypeCast").and_then(Value::as_object) {
            self.note_cast(cast);
        }
        let target = object.get("infer").and_then(|infer| infer.get("index_elems")).and_then(Value::as_array);
        if target.is_some_and(|elements| !elements.is_empty()) {
            self.conflict_targets += 1;
        }
        if let Some(fields) = object.get("fields").and_then(Value::as_array) {
            self.note_column(fields, location);
        }
        if let Some(steps) = object.get("indirection").and_then(Value::as_array) {
            self.fields.extend(steps.iter().filter_map(string));
        }
        if let Some(constant) = text_constant(object) {
            self.strings.push(constant.to_owned());
        }
    }

    fn note_statement(&mut self, object: &Map<String, Value>) {
        self.statements.extend(object.keys().filter(|key| key.ends_with("Stmt")).cloned());
    }

    fn note_qualified(&mut self, name: &Name) {
        if name.schema.is_some() {
            self.qualified.push(name.clone());
        }
    }

    fn note_column(&mut self, fields: &[Value], location: Option<usize>) {
        let names: Vec<_> = fields.iter().filter_map(string).collect();
        if fields.len() > 1 {
            self.fields.extend(names.last().cloned());
        }
        if let [schema, table, ..] = names.as_slice()
            && fields.len() > 2
        {
            let name = Name { schema: Some(schema.clone()), name: table.clone(), location };
            self.qualified.push(name);
        }
    }

    /// `nextval('public.t_id_seq')` names a schema as well.
    fn note_relation_text(&mut self, call: &Map<String, Value>, function: &Name) {
        if TAKES_RELATION_NAME.contains(&function.name.as_str())
            && let Some(Value::Array(args)) = call.get("args")
            && let Some(first) = args.first().and_then(constant_below)
        {
            self.note_dotted(first, function.location);
        }
    }

    /// `'public.t'::regclass` as well.
    fn note_cast(&mut self, cast: &Map<String, Value>) {
        let type_name = cast.get("type_name").and_then(|name| name.get("names"));
        let is_reg = type_name
            .and_then(|names| name_of(names, None))
            .is_some_and(|name| name.name.starts_with("reg") && name.name != "regrole");
        if is_reg && let Some(constant) = cast.get("arg").and_then(constant_below) {
            self.note_dotted(constant, None);
        }
    }

    fn note_dotted(&mut self, constant: &str, location: Option<usize>) {
        if let Some((schema, name)) = constant.split_once('.') {
            let schema = schema.trim_matches('"').to_owned();
            self.qualified.push(Name { schema: Some(schema), name: name.to_owned(), location });
        }
    }
}

fn some(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

fn text<'a>(object: &'a Map<String, Value>, key: &str) -> Option<&'a str> {
    object.get(key)?.as_str()
}

/// The columns that a tree names, without the tables before their dots.
pub(crate) fn column_names(tree: &Value) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    note_column_names(tree, &mut names);
    names
}

fn note_column_names(value: &Value, names: &mut BTreeSet<String>) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| note_column_names(item, names)),
        Value::Object(object) => {
            let fields = object.get("ColumnRef").and_then(|column| column.get("fields")?.as_array());
            names.extend(fields.and_then(|fields| fields.last().and_then(string)));
            object.values().for_each(|item| note_column_names(item, names));
        }
        _ => {}
    }
}

/// The text of a string node.
pub(crate) fn string(value: &Value) -> Option<String> {
    value.get("node")?.get("String")?.get("sval")?.as_str().map(str::to_owned)
}

/// A dotted name from the list of its parts.
fn name_of(list: &Value, location: Option<usize>) -> Option<Name> {
    let parts: Vec<_> = list.as_array()?.iter().filter_map(string).collect();
    let (name, rest) = parts.split_last()?;
    Some(Name { schema: rest.last().cloned(), name: name.clone(), location })
}

fn text_constant(object: &Map<String, Value>) -> Option<&str> {
    object.get("AConst")?.get("val")?.get("Sval")?.get("sval")?.as_str()
}

/// The constant that an expression is, through casts.
fn constant_below(value: &Value) -> Option<&str> {
    let node = value.get("node")?.as_object()?;
    text_constant(node).or_else(|| constant_below(node.get("TypeCast")?.get("arg")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(sql: &str) -> Facts {
        Facts::of(&serde_json::to_value(pg_query::parse(sql, 0).unwrap().protobuf).unwrap())
    }

    fn qualified(sql: &str) -> Vec<String> {
        facts(sql).qualified.into_iter().filter_map(|name| name.schema).collect()
    }

    #[test]
    fn every_way_to_name_a_schema_is_seen() {
        for sql in [
            "SELECT * FROM x.t",
            "SELECT x.f(1)",
            "SELECT 1::x.ty",
            "CREATE TABLE x.t (a int)",
            "CREATE TABLE t (a x.ty)",
            "CREATE TABLE t (a int REFERENCES x.t)",
            "CREATE TABLE t (a text COLLATE x.c)",
            "CREATE TYPE x.e AS ENUM ('a')",
            "CREATE DOMAIN x.d AS int",
            "CREATE FUNCTION x.f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
            "CREATE FUNCTION f(a x.ty) RETURNS int LANGUAGE sql AS 'SELECT 1'",
            "CREATE TRIGGER t BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION x.f()",
            "CREATE INDEX ON x.t (a)",
            "CREATE INDEX ON t (a x.ops)",
            "SELECT x.t.a FROM t",
            "SELECT nextval('x.s')",
            "SELECT nextval('x.s'::regclass)",
            "SELECT 'x.t'::regclass",
            "SELECT 1 OPERATOR(x.+) 2",
            "WITH q AS (DELETE FROM x.t RETURNING 1) SELECT * FROM q",
            "ALTER FUNCTION x.f() STABLE",
            "CREATE VIEW v AS SELECT (SELECT max(a) FROM x.t)",
        ] {
            assert_eq!(qualified(sql).first().map(String::as_str), Some("x"), "{sql}");
        }
        assert!(qualified("SELECT t.a, 'x.y', f(1.5) FROM t WHERE t.b::text = 'c.d'").is_empty());
    }

    #[test]
    fn calls_and_fields_are_told_apart() {
        let facts = facts("SELECT f(a.b), (c).d FROM t WHERE EXISTS (SELECT 1 FROM u)");
        assert_eq!(facts.functions[0].name, "f");
        assert!(facts.fields.contains("b") && facts.fields.contains("d"));
        let relations: Vec<_> = facts.relations.iter().map(|name| name.name.as_str()).collect();
        assert_eq!(relations, ["t", "u"]);
    }
}
