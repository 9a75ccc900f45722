//! Random app schemas: whatever is taken becomes statements that PostgreSQL's
//! grammar knows, and in them every key of every table has the tenant first.

#![allow(clippy::unwrap_used, clippy::panic)]

use insula_app_schema::{Migration, PoolForm, PoolMigration, Runs, check};
use insula_domain::SchemaVersion;
use pg_query::NodeEnum;
use pg_query::protobuf::{AlterTableType, ConstrType, Constraint, ParseResult};
use proptest::prelude::*;

fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        "x[a-d]?",
        Just("\"Order\"".to_owned()),
        Just("\"a b\"".to_owned()),
        Just("ümläut".to_owned())
    ]
}

fn type_name() -> impl Strategy<Value = &'static str> {
    prop_oneof![
        Just("int"),
        Just("bigserial"),
        Just("text"),
        Just("numeric(10,2)[]"),
        Just("timestamptz"),
        Just("character varying(20) COLLATE \"C\""),
    ]
}

fn column_constraint() -> impl Strategy<Value = &'static str> {
    prop_oneof![
        Just(""),
        Just(" "),
        Just("  "),
        Just("NOT NULL"),
        Just("UNIQUE"),
        Just("UNIQUE DEFERRABLE INITIALLY DEFERRED"),
        Just("DEFAULT NULL"),
        Just("CHECK (true)"),
        Just("CONSTRAINT \"My key\" UNIQUE"),
        Just("REFERENCES base ON DELETE SET NULL"),
        Just("REFERENCES base (other) ON DELETE CASCADE ON UPDATE CASCADE NOT DEFERRABLE"),
    ]
}

fn table() -> impl Strategy<Value = String> {
    let column = (type_name(), column_constraint(), column_constraint());
    (name(), prop::collection::vec(column, 1..6), any::<bool>()).prop_map(|(name, columns, keyed)| {
        let columns: Vec<_> = columns
            .iter()
            .enumerate()
            .map(|(index, (kind, first, second))| format!("c{index} {kind} {first} {second}"))
            .collect();
        let key = if keyed { ", PRIMARY KEY (c0)" } else { "" };
        format!("CREATE TABLE {name} ({}{key})", columns.join(", "))
    })
}

fn statement() -> impl Strategy<Value = String> {
    prop_oneof![
        table(),
        table(),
        table(),
        name()
            .prop_map(|name| format!("CREATE UNIQUE INDEX ON {name} (lower(c0::text)) WHERE c0 IS NOT NULL")),
        name().prop_map(|name| format!("CREATE INDEX ON {name} USING gin (c0)")),
        (name(), type_name(), column_constraint()).prop_map(|(name, kind, constraint)| format!(
            "ALTER TABLE {name} ADD COLUMN d {kind} {constraint}"
        )),
        name().prop_map(|name| format!("ALTER TABLE {name} ADD UNIQUE (c0), DROP COLUMN IF EXISTS c1")),
        (name(), name()).prop_map(|(from, to)| format!("ALTER TABLE {from} RENAME TO {to}")),
        name().prop_map(|name| format!("CREATE VIEW v AS SELECT * FROM {name}")),
        name().prop_map(|name| format!("INSERT INTO {name} (c0) VALUES (1) ON CONFLICT (c0) DO NOTHING")),
        name().prop_map(|name| format!("DROP TABLE {name}")),
    ]
}

fn parse(sql: &str) -> ParseResult {
    pg_query::parse(sql, 0).unwrap_or_else(|error| panic!("{error}: {sql}")).protobuf
}

fn first_text(nodes: &[pg_query::Node]) -> Option<&str> {
    match nodes.first()?.node.as_ref()? {
        NodeEnum::String(text) => Some(&text.sval),
        NodeEnum::IndexElem(element) => Some(&element.name),
        _ => None,
    }
}

fn assert_tenant_first(constraint: &Constraint, sql: &str) {
    match ConstrType::try_from(constraint.contype).unwrap() {
        ConstrType::ConstrPrimary | ConstrType::ConstrUnique => {
            assert_eq!(first_text(&constraint.keys), Some("tenant_id"), "{sql}");
        }
        ConstrType::ConstrForeign => {
            assert_eq!(first_text(&constraint.fk_attrs), Some("tenant_id"), "{sql}");
            assert_eq!(first_text(&constraint.pk_attrs), Some("tenant_id"), "{sql}");
            if constraint.fk_del_action == "n" {
                assert_eq!(constraint.fk_attrs.len(), constraint.fk_del_set_cols.len() + 1, "{sql}");
            }
        }
        _ => {}
    }
}

/// Whether a statement keeps the form; counts the tables and their policies.
fn inspect(sql: &str, tables: &mut usize, policies: &mut usize) {
    for raw in parse(sql).stmts {
        match raw.stmt.unwrap().node.unwrap() {
            NodeEnum::CreateStmt(create) => {
                *tables += 1;
                let mut columns = Vec::new();
                for element in create.table_elts {
                    match element.node.unwrap() {
                        NodeEnum::ColumnDef(column) => {
                            for inner in &column.constraints {
                                let Some(NodeEnum::Constraint(inner)) = &inner.node else { panic!("{sql}") };
                                let kind = ConstrType::try_from(inner.contype).unwrap();
                                let is_key = matches!(
                                    kind,
                                    ConstrType::ConstrPrimary
                                        | ConstrType::ConstrUnique
                                        | ConstrType::ConstrForeign
                                );
                                assert!(!is_key, "{sql}");
                            }
                            columns.push(column.colname);
                        }
                        NodeEnum::Constraint(constraint) => assert_tenant_first(&constraint, sql),
                        other => panic!("{other:?}"),
                    }
                }
                assert_eq!(columns.last().map(String::as_str), Some("tenant_id"), "{sql}");
            }
            NodeEnum::AlterTableStmt(alter) => {
                for cmd in alter.cmds {
                    let Some(NodeEnum::AlterTableCmd(cmd)) = cmd.node else { panic!("{sql}") };
                    if cmd.subtype == AlterTableType::AtAddConstraint as i32
                        && let Some(NodeEnum::Constraint(constraint)) = cmd.def.unwrap().node
                    {
                        assert_tenant_first(&constraint, sql);
                    }
                }
            }
            NodeEnum::IndexStmt(index) if index.unique => {
                assert_eq!(first_text(&index.index_params), Some("tenant_id"), "{sql}");
            }
            NodeEnum::CreatePolicyStmt(_) => *policies += 1,
            NodeEnum::ViewStmt(_) => assert!(sql.contains("security_invoker=true"), "{sql}"),
            _ => {}
        }
    }
}

fn rewrite(form: &mut PoolForm, version: i32, sql: &str) -> Option<PoolMigration> {
    let plain = check(&Migration::new(SchemaVersion(version), "random", sql)).unwrap();
    form.rewrite(&plain).ok()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_taken_keeps_the_form(statements in prop::collection::vec(statement(), 1..12)) {
        let mut form = PoolForm::new();
        rewrite(&mut form, 1, "CREATE TABLE base (id int PRIMARY KEY, other int UNIQUE)").unwrap();
        let (mut tables, mut policies) = (0, 0);
        for (statement, version) in statements.iter().zip(2..) {
            let Some(pool) = rewrite(&mut form, version, statement) else { continue };
            for statement in pool.statements {
                inspect(&statement.sql, &mut tables, &mut policies);
                if statement.runs == Runs::Tenant {
                    prop_assert!(statement.sql.contains("ON CONFLICT (tenant_id, c0)"));
                }
            }
        }
        prop_assert_eq!(tables, policies);
    }
}
