//! The bodies of functions: what they name, whether they touch a table, and
//! whether they make SQL out of text. PL/pgSQL is read with PostgreSQL's own
//! PL/pgSQL parser, its expressions with the SQL parser.

use pg_query::NodeEnum;
use pg_query::protobuf::{CreateFunctionStmt, ScanToken, Token};
use serde_json::Value;

use crate::facts::{Facts, Name};
use crate::names::text_of;
use crate::syntax::{offset, plpgsql_expression, tokens_of};

/// The variables that PL/pgSQL gives to a trigger function. The parser library
/// cannot print them for what returns `trigger`, so that a trigger's body is
/// read as that of a function which takes them as arguments.
const TRIGGER_ARGUMENTS: &str = "new record, old record, tg_name text, tg_when text, tg_level text, tg_op text, \
    tg_relid oid, tg_relname text, tg_table_name text, tg_table_schema text, tg_nargs integer, tg_argv text[]";

/// Statements of PL/pgSQL that run SQL made of text.
const DYNAMIC: [&str; 2] = ["PLpgSQL_stmt_dynexecute", "PLpgSQL_stmt_dynfors"];
/// Statements that reach a table in a way that their expressions do not show.
const INDIRECT: [&str; 6] = [
    "PLpgSQL_stmt_open",
    "PLpgSQL_stmt_forc",
    "PLpgSQL_stmt_fetch",
    "PLpgSQL_stmt_call",
    "PLpgSQL_stmt_commit",
    "PLpgSQL_stmt_rollback",
];

/// What a function does, as far as its text shows.
#[derive(Debug, Clone, Default)]
pub(crate) struct Body {
    /// Everything that it names.
    pub(crate) facts: Facts,
    /// What shows that it may touch a table.
    pub(crate) touches_table: Option<String>,
    /// What shows that it may run SQL made of text, or a definition.
    pub(crate) beyond_static: Option<String>,
}

/// The language of a function, in lower case.
pub(crate) fn language(function: &CreateFunctionStmt) -> String {
    let named = option(function, "language").and_then(text_of);
    named.unwrap_or_else(|| "sql".to_owned()).to_ascii_lowercase()
}

/// An option of `CREATE FUNCTION` by its name in the parse tree.
pub(crate) fn option<'a>(function: &'a CreateFunctionStmt, name: &str) -> Option<&'a pg_query::Node> {
    function.options.iter().find_map(|node| match node.node.as_ref()? {
        NodeEnum::DefElem(element) if element.defname == name => element.arg.as_deref(),
        _ => None,
    })
}

/// The text between the quotes of `AS '…'`.
pub(crate) fn quoted_body(function: &CreateFunctionStmt) -> Option<String> {
    match option(function, "as")?.node.as_ref()? {
        NodeEnum::List(list) if list.items.len() == 1 => text_of(&list.items[0]),
        _ => None,
    }
}

/// Whether the function returns `trigger`.
pub(crate) fn is_trigger(function: &CreateFunctionStmt) -> bool {
    let returned = function.return_type.as_ref().and_then(|name| name.names.last()).and_then(text_of);
    returned.as_deref() == Some("trigger")
}

/// Reads the body of a function in SQL or PL/pgSQL; `statement` is the text of
/// the whole `CREATE FUNCTION`.
///
/// # Errors
/// Says why it cannot be read.
pub(crate) fn read(function: &CreateFunctionStmt, statement: &str) -> Result<Body, String> {
    match language(function).as_str() {
        "sql" => read_sql(function),
        "plpgsql" => read_plpgsql(function, statement),
        other => Err(format!("it is written in {other}")),
    }
}

fn read_sql(function: &CreateFunctionStmt) -> Result<Body, String> {
    let tree = match (&function.sql_body, quoted_body(function)) {
        (Some(body), _) => serde_json::to_value(body),
        (None, Some(text)) => {
            let parsed = pg_query::parse(&text, 0).map_err(|error| error.to_string())?;
            serde_json::to_value(&parsed.protobuf)
        }
        (None, None) => return Err("it has no body".to_owned()),
    };
    let mut body = Body::default();
    body.note_sql(&tree.map_err(|error| error.to_string())?);
    Ok(body)
}

fn read_plpgsql(function: &CreateFunctionStmt, statement: &str) -> Result<Body, String> {
    let text = quoted_body(function).ok_or("it has no body")?;
    let compiled = if is_trigger(function) {
        let tag = (0..).map(|n| format!("$body{n}$")).find(|tag| !text.contains(tag)).unwrap_or_default();
        let stand_in = format!(
            "CREATE FUNCTION f({TRIGGER_ARGUMENTS}) RETURNS record LANGUAGE plpgsql AS {tag}{text}{tag}"
        );
        pg_query::parse_plpgsql(&stand_in)
    } else {
        pg_query::parse_plpgsql(statement)
    };
    let mut body = Body::default();
    body.walk_plpgsql(&compiled.map_err(|error| error.to_string())?)?;
    body.note_public(&text);
    Ok(body)
}

impl Body {
    fn walk_plpgsql(&mut self, value: &Value) -> Result<(), String> {
        match value {
            Value::Array(items) => items.iter().try_for_each(|item| self.walk_plpgsql(item)),
            Value::Object(object) => {
                for (key, item) in object {
                    self.note_plpgsql(key, item)?;
                    self.walk_plpgsql(item)?;
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn note_plpgsql(&mut self, key: &str, item: &Value) -> Result<(), String> {
        if key == "PLpgSQL_expr" {
            let text = item.get("query").and_then(Value::as_str).unwrap_or_default();
            let mode = item.get("parseMode").and_then(Value::as_i64).unwrap_or(0);
            let tree = plpgsql_expression(text, mode).map_err(|error| format!("{error} in: {text}"))?;
            self.note_sql(&tree);
        }
        if key == "typname"
            && let Some(name) = item.as_str()
        {
            self.note_type(name);
        }
        let words = || key.trim_start_matches("PLpgSQL_stmt_").to_owned();
        if DYNAMIC.contains(&key) || (key == "dynquery" && !item.is_null()) {
            self.beyond_static.get_or_insert("it runs SQL made of text (EXECUTE)".to_owned());
            self.touches_table.get_or_insert("it runs SQL made of text (EXECUTE)".to_owned());
        }
        if INDIRECT.contains(&key) {
            self.touches_table.get_or_insert(format!("it has a {} statement", words()));
        }
        Ok(())
    }

    /// The parser library does not print the types of composite variables, so
    /// that the schema which is named most often is looked for by its tokens.
    fn note_public(&mut self, text: &str) {
        for pair in tokens_of(text).windows(3) {
            let word =
                |token: &ScanToken| text.get(offset(token.start)..offset(token.end)).unwrap_or_default();
            if word(&pair[0]).eq_ignore_ascii_case("public") && pair[1].token == Token::Ascii46 as i32 {
                let name = word(&pair[2]).to_owned();
                self.facts.qualified.push(Name { schema: Some("public".to_owned()), name, location: None });
            }
        }
    }

    /// The type of a variable may be qualified with a schema.
    fn note_type(&mut self, name: &str) {
        let plain = name.trim_end_matches("%type").trim_end_matches("%TYPE").trim_end_matches("%rowtype");
        let parts: Vec<_> = plain.split('.').collect();
        let own =
            if plain.len() == name.len() || name.to_ascii_lowercase().ends_with("%rowtype") { 1 } else { 2 };
        if parts.len() > own {
            self.facts.qualified.push(Name {
                schema: Some(parts[0].trim_matches('"').to_owned()),
                name: parts[1].to_owned(),
                location: None,
            });
        }
    }

    fn note_sql(&mut self, tree: &Value) {
        let facts = Facts::of(tree);
        if let Some(relation) = facts.relations.first() {
            self.touches_table.get_or_insert(format!("it reads or writes {}", relation.name));
        }
        for kind in &facts.statements {
            match kind.as_str() {
                "SelectStmt" | "ReturnStmt" | "PlassignStmt" => {}
                "InsertStmt" | "UpdateStmt" | "DeleteStmt" | "MergeStmt" | "CallStmt" => {
                    self.touches_table.get_or_insert(format!("it has a statement of the kind {kind}"));
                }
                _ => {
                    let reason = format!("it has a statement of the kind {kind}");
                    self.touches_table.get_or_insert(reason.clone());
                    self.beyond_static.get_or_insert(reason);
                }
            }
        }
        self.facts.add(tree);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(sql: &str) -> Result<Body, String> {
        let parsed = pg_query::parse(sql, 0).unwrap().protobuf;
        let node = parsed.stmts.into_iter().next().unwrap().stmt.unwrap().node.unwrap();
        let NodeEnum::CreateFunctionStmt(function) = node else { panic!("a function") };
        read(&function, sql)
    }

    fn trigger(text: &str) -> Body {
        body(&format!("CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $${text}$$")).unwrap()
    }

    #[test]
    fn bodies_that_touch_no_table_are_recognised() {
        for text in [
            "BEGIN NEW.a := now(); RETURN NEW; END",
            "DECLARE n int := 3; r record; x t.a%TYPE; y t%ROWTYPE; \
             BEGIN IF TG_OP = 'UPDATE' AND OLD.a IS DISTINCT FROM NEW.a THEN NEW.b = \"upper\"(NEW.a || E'\\n'); END IF; \
             FOR i IN 1..3 LOOP n := n + i; END LOOP; WHILE n < 9 LOOP n := n + 1; EXIT WHEN n = 5; END LOOP; \
             CASE n WHEN 1 THEN NULL; ELSE RAISE EXCEPTION 'no %', NEW.a USING HINT = 'h'; END CASE; \
             BEGIN n := 1 / n; EXCEPTION WHEN division_by_zero THEN RETURN NULL; END; \
             ASSERT n > 0, 'n'; PERFORM length(NEW.a); SELECT length(NEW.a) INTO n; RETURN coalesce(NEW, OLD); END",
        ] {
            let body = trigger(text);
            assert_eq!((&body.touches_table, &body.beyond_static), (&None, &None), "{text}");
        }
    }

    #[test]
    fn every_way_to_a_table_is_seen() {
        for text in [
            "BEGIN SELECT count(*) INTO NEW.a FROM t; RETURN NEW; END",
            "BEGIN NEW.a := (SELECT max(a) FROM t); RETURN NEW; END",
            "BEGIN NEW.a := max(a) FROM t; RETURN NEW; END",
            "BEGIN IF EXISTS (TABLE t) THEN RETURN NULL; END IF; RETURN NEW; END",
            "BEGIN PERFORM 1 FROM t; RETURN NEW; END",
            "BEGIN INSERT INTO t VALUES (1); RETURN NEW; END",
            "BEGIN UPDATE t SET a = 1; RETURN NEW; END",
            "BEGIN DELETE FROM t; RETURN NEW; END",
            "DECLARE r record; BEGIN FOR r IN SELECT * FROM t LOOP NULL; END LOOP; RETURN NEW; END",
            "DECLARE r record; BEGIN FOR r IN EXECUTE 'SELECT 1' LOOP NULL; END LOOP; RETURN NEW; END",
            "BEGIN EXECUTE 'DELETE FROM t'; RETURN NEW; END",
            "DECLARE c CURSOR FOR SELECT * FROM t; BEGIN OPEN c; RETURN NEW; END",
            "DECLARE c refcursor; BEGIN OPEN c FOR EXECUTE 'SELECT 1'; RETURN NEW; END",
            "DECLARE n int := (SELECT count(*) FROM t); BEGIN RETURN NEW; END",
            "BEGIN RAISE NOTICE '%', (SELECT count(*) FROM t); RETURN NEW; END",
            "BEGIN RETURN (SELECT t FROM t LIMIT 1); END",
            "BEGIN CALL p(); RETURN NEW; END",
            "BEGIN LOCK TABLE t; RETURN NEW; END",
            "BEGIN CREATE TEMP TABLE x (a int); RETURN NEW; END",
        ] {
            assert!(trigger(text).touches_table.is_some(), "{text}");
        }
    }

    #[test]
    fn sql_made_of_text_and_definitions_are_beyond_static() {
        for text in [
            "BEGIN EXECUTE format('DELETE FROM %I', TG_TABLE_NAME); RETURN NEW; END",
            "DECLARE r record; BEGIN FOR r IN EXECUTE 'SELECT 1' LOOP NULL; END LOOP; RETURN NEW; END",
            "DECLARE c refcursor; BEGIN OPEN c FOR EXECUTE 'SELECT 1'; RETURN NEW; END",
            "BEGIN ALTER TABLE t DISABLE ROW LEVEL SECURITY; RETURN NEW; END",
            "BEGIN SET ROLE postgres; RETURN NEW; END",
        ] {
            assert!(trigger(text).beyond_static.is_some(), "{text}");
        }
        assert_eq!(trigger("BEGIN UPDATE t SET a = 1; RETURN NEW; END").beyond_static, None);
        let set = "CREATE FUNCTION f() RETURNS SETOF int LANGUAGE plpgsql AS $$ BEGIN RETURN QUERY EXECUTE 'SELECT 1'; END $$";
        assert!(body(set).unwrap().beyond_static.is_some());
    }

    #[test]
    fn sql_bodies_are_read_in_both_forms() {
        let quoted =
            body("CREATE FUNCTION f(a int) RETURNS int LANGUAGE sql AS 'SELECT a + abs(a)'").unwrap();
        assert_eq!((quoted.touches_table, quoted.facts.functions[0].name.as_str()), (None, "abs"));
        let standard = body("CREATE FUNCTION f(a int) RETURNS int RETURN (SELECT max(b) FROM t)").unwrap();
        assert!(standard.touches_table.is_some());
        let atomic = body("CREATE FUNCTION f() RETURNS void BEGIN ATOMIC DELETE FROM t; END").unwrap();
        assert!(atomic.touches_table.is_some());
        assert!(body("CREATE FUNCTION f() RETURNS int LANGUAGE c AS 'x', 'y'").is_err());
        let error =
            body("CREATE FUNCTION f() RETURNS int LANGUAGE plpgsql AS 'BEGIN RETRUN 1; END'").unwrap_err();
        assert!(error.contains("RETRUN"), "{error}");
    }

    #[test]
    fn schemas_in_bodies_are_seen() {
        for text in [
            "DECLARE a public.t%ROWTYPE; BEGIN RETURN NEW; END",
            "DECLARE a public.t.b%TYPE; BEGIN RETURN NEW; END",
            "DECLARE a public.ty; BEGIN RETURN NEW; END",
            "BEGIN UPDATE public.t SET a = 1; RETURN NEW; END",
        ] {
            let body = trigger(text);
            let schemas: Vec<_> =
                body.facts.qualified.iter().filter_map(|name| name.schema.as_deref()).collect();
            assert!(schemas.contains(&"public"), "{text}: {schemas:?}");
        }
        let body = trigger("DECLARE a t%ROWTYPE; b t.c%TYPE; d int; BEGIN NEW.a := OLD.a; RETURN NEW; END");
        assert!(body.facts.qualified.is_empty(), "{:?}", body.facts.qualified);
    }
}
