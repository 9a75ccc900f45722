//! What is changed and what is not, and the changed texts against PostgreSQL's
//! own lexer and parser.

use pg_query::NodeEnum;
use proptest::prelude::*;

use crate::lexemes::Lexemes;
use crate::{Keys, Settings};

const CONFORMING: Settings = Settings { conforming: true };

fn edits(text: &[u8], settings: Settings) -> Option<crate::Edits> {
    let key = |table: &str, columns: &[&str]| {
        (table.to_owned(), columns.iter().map(|column| (*column).to_owned()).collect())
    };
    let keys: Keys =
        [key("u", &["id"]), key("p", &["id"]), key("Lines", &["order", "Line"]), key("none", &[])].into();
    crate::edits(text, settings, &keys)
}

fn changed(text: &str) -> String {
    let changed = edits(text.as_bytes(), CONFORMING).map(|edits| edits.apply(text.as_bytes()));
    changed.map_or_else(|| text.to_owned(), |text| String::from_utf8(text).unwrap())
}

/// Texts with a `‹` before and a `›` behind what is added; what is added in
/// place of something has that behind a `|`.
fn check(text: &str) {
    let (mut before, mut after, mut rest) = (String::new(), String::new(), text);
    while let Some((kept, behind)) = rest.split_once('‹') {
        let (added, behind) = behind.split_once('›').unwrap();
        let (added, removed) = added.split_once('|').unwrap_or((added, ""));
        before.extend([kept, removed]);
        after.extend([kept, added]);
        rest = behind;
    }
    before.push_str(rest);
    after.push_str(rest);
    assert_eq!(changed(&before), after);
}

#[test]
fn conflicts_find_their_index() {
    for text in [
        "insert into t values (1) on conflict (‹tenant_id, ›id) do nothing",
        "INSERT INTO t VALUES (1) ON CONFLICT(‹tenant_id, ›id)DO UPDATE SET a = excluded.a WHERE t.b",
        "insert into t values (1) on/**/conflict -- x\n ( /* ( */ ‹tenant_id, ›\"id\", lower(b) ) do nothing",
        "insert into t values (1) on conflict (‹tenant_id, ›a collate \"C\" text_ops) where (b > 1) and c = ')' do nothing",
        "insert into t values (1) on conflict (‹tenant_id, ›(a || 'x')) where x.do do nothing",
        "insert into t values (1) on conflict do nothing",
        "insert into t values (1) on conflict on constraint t_pkey do nothing",
        "insert into t values (1) on conflict (tenant_id, id) do nothing",
        "insert into t values (1) on conflict (id, \"tenant_id\") do nothing",
        "insert into t values (1) on conflict (id, TENANT_ID) do nothing",
        "with a as (insert into t values (1) on conflict (‹tenant_id, ›id) do nothing returning *) \
         insert into u select * from a on conflict (‹tenant_id, ›id) do update set x = 1",
        "select 1; insert into t values (1) on conflict (‹tenant_id, ›id) do nothing; \
         insert into t values ('on conflict (id) do nothing') on conflict (‹tenant_id, ›id) do nothing",
        "prepare p as insert into t values ($1) on conflict (‹tenant_id, ›id) do nothing",
        "explain (analyze) insert into t values (1) on conflict (‹tenant_id, ›id) do nothing",
        // A function of that name.
        "select * from a join b on conflict (x) where y",
        "insert into t select * from a join b on conflict (x) where y on conflict (‹tenant_id, ›id) do nothing",
        "insert into t select * from a join b on conflict (x) where y; do nothing",
        "insert into t select * from (select * from a join b on conflict (x) where y) do nothing",
        // Quoted, commented, or nothing at all.
        "select 'insert into t values (1) on conflict (id) do nothing'",
        "select $a$ on conflict (id) do nothing $a$, $1, 1e5$$ on conflict (id) do nothing $$",
        "select E'\\' on conflict (id) do nothing'",
        "select E'a'\n'\\' on conflict (id) do nothing'",
        "-- on conflict (id) do nothing",
        "/* /* */ on conflict (id) do nothing */",
        "insert into t values (1) \"on\" conflict (id) do nothing",
        "insert into t values (1) on \"conflict\" (id) do nothing",
        "insert into t values (1) on conflict (id) do something",
        "insert into t values (1) on conflict () do nothing",
        "insert into t values (1) on conflict (id",
        "insert into t values (1) on conflict (id) do nothing '",
        "x.on conflict (id) do nothing",
    ] {
        check(text);
    }
}

#[test]
fn groups_by_a_key_have_the_tenant() {
    for text in [
        "select u.*, count(p.id) from u left join p on p.a = u.id group by ‹u.tenant_id, ›u.id",
        "SELECT \"u\".\"id\", COUNT(\"p\".\"id\") FROM \"u\" LEFT OUTER JOIN \"p\" ON (\"u\".\"id\" = \"p\".\"a\") \
         GROUP BY ‹\"u\".tenant_id, ›\"u\".\"id\" HAVING COUNT(\"p\".\"id\") > 1 ORDER BY \"u\".\"name\" ASC LIMIT 3",
        "select * from u group by ‹u.tenant_id, ›id",
        "select * from U x group by ‹x.tenant_id, ›X.ID, x.name",
        "select * from app.u as \"X y\" where a in (1, 2) group by ‹\"X y\".tenant_id, ›\"X y\".id;",
        "select * from u a, p b group by b.x, a.id, lower(a.b), 1"
            .replace("by b", "by ‹a.tenant_id, ›b")
            .as_str(),
        "select * from u a cross join p b group by ‹a.tenant_id, b.tenant_id, ›a.id, b.id",
        "select * from \"Lines\" l group by ‹l.tenant_id, ›l.\"Line\", l.order",
        "select extract(year from u.t), u.a is distinct from 1, 1 as from from u group by ‹u.tenant_id, ›u.id",
        "select * from (select u.id, u.a from u group by ‹u.tenant_id, ›u.id) s join u on u.id = s.id \
         group by s.id, ‹›u.id"
            .replace("by s.id, ‹›", "by ‹u.tenant_id, ›s.id, ")
            .as_str(),
        "with w as (select u.* from u group by ‹u.tenant_id, ›u.id) select * from w group by w.id",
        "select * from u group by ‹u.tenant_id, ›id union select * from p group by ‹p.tenant_id, ›id",
        "insert into t select u.id from u group by ‹u.tenant_id, ›u.id on conflict (‹tenant_id, ›id) do nothing",
        "select * from u join lateral (select 1 from p where p.a = u.id) x on true group by ‹u.tenant_id, ›u.id",
        "select * from u tablesample system (10) group by ‹u.tenant_id, ›u.id",
        "select * from generate_series(1, 2) g, u group by ‹u.tenant_id, ›u.id, g",
        "select * from u group by distinct ‹u.tenant_id, ›u.id",
        // Of what is not the whole key, or not surely of the table, nothing is said.
        "select * from \"Lines\" l group by l.order",
        "select * from u group by u.name",
        "select * from u, p group by id",
        "select * from none group by none.id",
        "select * from other u group by u.id",
        "select * from u (id, b) group by u.id",
        "select * from u as x (id, b) group by x.id",
        "select * from u(1) group by u.id",
        "select * from (select 1 as id) u group by u.id",
        "select * from (u join p on true) group by u.id",
        "select * from x.u group by u.id",
        "select * from only u group by u.id",
        "select * from rows from (f()) u group by u.id",
        "select * from u, x.u group by u.id, x.id".replace("x.u", "app.u").as_str(),
        "select * from \"U\" group by \"U\".id",
        "select * from U&\"\\0075\" group by id",
        "with u as (select 1 as id) select * from u group by u.id",
        "with recursive u (id) as materialized (select 1) select * from u group by u.id",
        "select * from p where exists (select 1 from p x group by u.id)",
        "select * from u group by rollup (u.id)",
        "select * from u group by u.id, cube (u.a)",
        "select * from u group by u.id, grouping sets ((u.a), ())",
        "select * from u group by u.id, ()",
        "select * from u group by u.id, tenant_id",
        "select * from u group by (u.id, u.a)",
        "select * from u group by u.id + 1",
        "select * from u group by id.x",
        "select * from u where ']' = '[' group by a[u.id]",
        "select * from u group by",
        "select 'from u group by u.id' from u",
        "select * from u group by u.id)",
        "select * from u group by u.id '",
    ] {
        check(text);
    }
}

#[test]
fn backslashes_are_read_as_the_server_does() {
    let text = b"insert into t values ('\\') on conflict (id) do nothing --')";
    assert!(edits(text, CONFORMING).is_some());
    assert_eq!(edits(text, Settings { conforming: false }), None);
}

#[test]
fn copies_go_through_the_views() {
    for text in [
        "copy ‹insula_copy.›t from stdin",
        "COPY ‹insula_copy.›\"T t\"(a, \"b\") FROM STDIN WITH (FORMAT csv)",
        "copy binary ‹insula_copy.›t from stdin",
        "copy ‹insula_copy|app›.t (a) from stdin where a > 1",
        "copy ‹insula_copy|\"app\"›.t from stdin",
        "begin; copy /* x */ ‹insula_copy.›t from stdin; copy ‹insula_copy.›u from stdin",
        "copy ‹insula_copy.›U&\"\\0061\" from stdin",
        "copy insula_copy.t from stdin",
        "copy pg_catalog.t from stdin",
        "copy \"APP\".t from stdin",
        "copy a.app.t from stdin",
        "copy t to stdout",
        "copy t from '/etc/passwd'",
        "copy t from program 'x'",
        "copy (select 1 from stdin) to stdout",
        "copy t (a, (b)) from stdin",
        "select copy t from stdin",
        "select 'copy t from stdin'",
        "copy",
        "copy t (a",
    ] {
        check(text);
    }
}

#[test]
fn places_are_found_again() {
    let text = "sélect; copy app.tä from stdin; insert into t values ('é') on conflict (id) do nothing";
    let edits = edits(text.as_bytes(), CONFORMING).unwrap();
    let after = String::from_utf8(edits.apply(text.as_bytes())).unwrap();
    let shifts = edits.shifts(text.as_bytes(), true).unwrap();
    let place = |text: &str, part: &str| text[..text.find(part).unwrap()].chars().count() + 1;
    for part in ["sélect", "copy", ".tä", "insert", "values", "id)", "nothing"] {
        assert_eq!(shifts.original(place(&after, part)), place(text, part), "{part}");
    }
    assert_eq!(shifts.original(place(&after, "insula")), place(text, "app"));
    assert_eq!(shifts.original(place(&after, "tenant_id")), place(text, "id)"));
    assert_eq!(edits.shifts(text.as_bytes(), false), None);
}

/// What lexers stumble over, and what is changed.
fn fragment() -> impl Strategy<Value = String> {
    let fixed = proptest::sample::select(vec![
        "'",
        "''",
        "\"",
        "$$",
        "$a$",
        "--",
        "/*",
        "*/",
        "\n",
        "\\",
        "E'",
        "U&'",
        "U&\"",
        "b'",
        "(",
        ")",
        ";",
        ",",
        ".",
        "1",
        "1e5",
        "0x1f",
        "$1",
        "a",
        "é",
        "on",
        "conflict",
        "on conflict (id) do nothing",
        "on conflict (a) where b do update set x = 1",
        "insert into t values (1)",
        "copy t from stdin",
        "do",
        "where",
        "copy app.t (a) from stdin",
        "copy",
        "stdin",
        "from",
        "1.",
        "..",
        "-",
        "/",
        "*",
        "t_1",
        "tenant_id",
    ]);
    (fixed, prop_oneof![Just(""), Just(" "), Just("\n")]).prop_map(|(text, gap)| format!("{text}{gap}"))
}

fn texts() -> impl Strategy<Value = String> {
    proptest::collection::vec(fragment(), 0..14).prop_map(|parts| parts.concat())
}

fn words_of_ours(text: &str) -> Option<Vec<(usize, usize)>> {
    let mut lexemes = Lexemes::new(text.as_bytes(), CONFORMING);
    let words =
        lexemes.by_ref().filter(|lexeme| lexeme.is_name()).map(|lexeme| (lexeme.start, lexeme.end)).collect();
    (!lexemes.is_broken()).then_some(words)
}

/// Keywords and names as PostgreSQL's lexer has them; `None` where it refuses
/// the text.
fn words_of_postgresql(text: &str) -> Option<Vec<(usize, usize)>> {
    let tokens = pg_query::scan(text).ok()?.tokens;
    let is_word = |token: &pg_query::protobuf::ScanToken| {
        let piece = &text[token.start as usize..token.end as usize];
        let is_keyword = token.keyword_kind != pg_query::protobuf::KeywordKind::NoKeyword as i32;
        let is_ident = token.token == pg_query::protobuf::Token::Ident as i32
            || token.token == pg_query::protobuf::Token::Uident as i32;
        (is_keyword || is_ident) && !piece.ends_with('\'')
    };
    Some(
        tokens
            .iter()
            .filter(|token| is_word(token))
            .map(|token| (token.start as usize, token.end as usize))
            .collect(),
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, ..ProptestConfig::default() })]

    #[test]
    fn words_are_those_that_postgresql_sees(text in texts()) {
        if let Some(theirs) = words_of_postgresql(&text) {
            prop_assert_eq!(words_of_ours(&text), Some(theirs), "{}", text);
        }
    }

    /// What was changed is a statement exactly if it was one before, and the two
    /// differ in what was added alone.
    #[test]
    fn what_is_changed_means_the_same(text in texts()) {
        let after = changed(&text);
        let (Ok(before), parsed) = (pg_query::parse(&text, pg_query::ParserOptions::default()), pg_query::parse(&after, pg_query::ParserOptions::default())) else { return Ok(()) };
        let parsed = parsed.map_err(|error| TestCaseError::fail(format!("{text} → {after}: {error}")))?;
        prop_assert_eq!(plain(before), plain(parsed), "{} → {}", text, after);
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = edits(&bytes, CONFORMING);
    }
}

/// The statements of a text, without places and without what is added.
fn plain(parsed: pg_query::ParseResult) -> Vec<String> {
    parsed
        .protobuf
        .stmts
        .into_iter()
        .map(|raw| plain_statement(raw.stmt.and_then(|node| node.node)))
        .collect()
}

fn plain_statement(statement: Option<NodeEnum>) -> String {
    let statement = match statement {
        Some(NodeEnum::InsertStmt(mut insert)) => {
            if let Some(infer) = insert.on_conflict_clause.as_mut().and_then(|clause| clause.infer.as_mut()) {
                infer.index_elems.retain(|element| {
                    !matches!(&element.node, Some(NodeEnum::IndexElem(element)) if element.name == "tenant_id")
                });
            }
            NodeEnum::InsertStmt(insert)
        }
        Some(NodeEnum::SelectStmt(select)) => NodeEnum::SelectStmt(without_tenant(select)),
        Some(NodeEnum::CopyStmt(mut copy)) => {
            if let Some(relation) = copy.relation.as_mut().filter(|_| copy.is_from) {
                relation.schemaname.clear();
            }
            NodeEnum::CopyStmt(copy)
        }
        Some(other) => other,
        None => return String::new(),
    };
    let text = format!("{statement:?}");
    // Places are numbers behind these words.
    let mut out = String::new();
    for (index, part) in text.split("location: ").enumerate() {
        let kept =
            if index == 0 { part } else { part.trim_start_matches(|c: char| c.is_ascii_digit() || c == '-') };
        out.push_str(kept);
    }
    out
}

fn is_tenant_of_a_table(node: &pg_query::Node) -> bool {
    let Some(NodeEnum::ColumnRef(column)) = &node.node else { return false };
    let last = column.fields.last().and_then(|field| field.node.as_ref());
    matches!(last, Some(NodeEnum::String(name)) if name.sval == "tenant_id")
}

fn without_tenant(mut select: Box<pg_query::protobuf::SelectStmt>) -> Box<pg_query::protobuf::SelectStmt> {
    select.group_clause.retain(|node| !is_tenant_of_a_table(node));
    select.larg = select.larg.map(without_tenant);
    select.rarg = select.rarg.map(without_tenant);
    select
}
