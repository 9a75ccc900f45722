//! Every rule and its near misses.

mod spelling;

use crate::{Effects, Pin, Watch, effects};

fn of(text: &str) -> Effects {
    effects(text.as_bytes())
}

fn pinned(pin: Pin, texts: &[&str]) {
    for text in texts {
        assert_eq!(of(text).pin, Some(pin), "{text}");
        assert!(watched(text.as_bytes(), &[]).pin.is_some(), "{text}");
    }
}

/// They may do other things, but pin nothing.
fn not_pinned(texts: &[&str]) {
    for text in texts {
        assert_eq!(of(text).pin, None, "{text}");
    }
}

fn nothing(texts: &[&str]) {
    for text in texts {
        assert_eq!(of(text), Effects::default(), "{text}");
    }
}

fn watched(text: &[u8], cuts: &[usize]) -> Effects {
    let mut watch = Watch::new();
    let (mut rest, mut cuts) = (text, cuts.iter().copied());
    while !rest.is_empty() {
        let (piece, after) = rest.split_at(cuts.next().unwrap_or(rest.len()).clamp(1, rest.len()));
        watch.feed(piece);
        rest = after;
    }
    watch.finish()
}

#[test]
fn plain_statements_leave_nothing() {
    nothing(&[
        "",
        ";",
        "select 1",
        "SELECT abalance FROM pgbench_accounts WHERE aid = 12345;",
        "insert into temp values (1)",
        "insert into temp (a) select 1",
        "insert into t values ('create temp table x')",
        "insert into t values ('pg_advisory_lock', 'set_config', $$listen x; set role x$$)",
        "update t set role = 'x', seed = 1, a = 2 where b = 3",
        "update t set listen = 1; delete from load",
        "merge into temp using t on true when matched then do nothing",
        "select 1 /* create temp table x; set role y */ -- pg_advisory_lock\n",
        "select set, temp, hold, role, listen from t",
        "begin; commit",
        "start transaction isolation level serializable",
        "set local app.x = '1'",
        "set local search_path to a, b",
        "SET LOCAL ROLE x",
        "set transaction isolation level serializable",
        "set constraints all deferred",
        "select set_config('app.tenant', $1, true)",
        "select set_config('app.tenant', f(a, (b)), TRUE), set_config('b.c', 'x', true)",
        "with a as (select 1) insert into t select * from a",
        "select pg_advisory_xact_lock(1), pg_try_advisory_xact_lock(1), pg_advisory_unlock(1)",
        "select nextval('s'), setval('s', 1)",
        "unlisten x; notify x",
        "truncate t; comment on table t is 'x'; refresh materialized view v",
        "declare c cursor for select 1",
        "declare c cursor without hold for select 1",
        "declare c cursor for with hold as (select 1) select * from hold",
        "prepare transaction 'x'",
        "discard plans; discard sequences; discard temp",
        "select \"PG_ADVISORY_LOCK\", \"set\", a.\"x.y\", pg_temperature from t",
        "insert into t values ('a') on conflict do nothing",
        "explain select 1",
        "select 'C:\\temp\\', 'it''s \"currval\"'",
    ]);
}

#[test]
fn temporary_objects_pin() {
    pinned(
        Pin::TemporaryObject,
        &[
            "create temp table x (a int)",
            "CREATE TEMPORARY TABLE x AS SELECT 1",
            "create local temp table x ()",
            "create global temporary table x ()",
            "create temp sequence s",
            "create temp view v as select 1",
            "create or replace temp view v as select 1",
            "create or replace temporary recursive view v (a) as select 1",
            "explain analyze create temp table x as select 1",
            "select 1 into temp x",
            "select a into temporary table x from t",
            "select a into local temp x from t",
            "create table pg_temp.x (a int)",
            "create table \"pg_temp\".x (a int)",
            "select pg_temp.f()",
            "select * from pg_temp_3.x",
            "set search_path to pg_temp, public",
            "set search_path = 'PG_TEMP'",
            "set local search_path = 'pg_temp'",
            "set schema 'pg_temp'",
            "select set_config('search_path', 'a, pg_temp', true)",
            "begin; create temp table x () on commit drop",
            "do $$ begin create temp table x (); end $$",
        ],
    );
    not_pinned(&[
        "create table temp (a int)",
        "create table t (temp int, temporary int)",
        "alter table temp rename to temporary",
        "create function f() returns int language sql as 'create temp table x ()'",
        "set temp_buffers = 100",
        "set search_path = 'a, b'",
    ]);
}

#[test]
fn locks_cursors_and_the_like_pin() {
    pinned(
        Pin::AdvisoryLock,
        &[
            "select pg_advisory_lock(1)",
            "select PG_Advisory_Lock_Shared(1, 2)",
            "select pg_catalog.pg_try_advisory_lock(1)",
            "select \"pg_try_advisory_lock_shared\"(1)",
            "select 1 from t where pg_catalog . \"pg_advisory_lock\" /**/ (1) is null",
            "do 'begin perform pg_advisory_lock(1); end'",
            "do language plpgsql $x$ begin perform pg_advisory_lock(1); end $x$",
        ],
    );
    pinned(
        Pin::HeldCursor,
        &[
            "declare c cursor with hold for select 1",
            "DECLARE \"c\" NO SCROLL CURSOR WITH/**/HOLD FOR select 1",
        ],
    );
    pinned(Pin::Listen, &["listen x", ";; Listen \"X\"", "select 1; listen x"]);
    pinned(Pin::Load, &["load 'x'", "/* */ LOAD 'auto_explain'"]);
    pinned(
        Pin::SqlPrepare,
        &[
            "prepare a as select 1",
            "prepare transaction as select 1",
            "prepare transaction (int) as select $1",
        ],
    );
    pinned(
        Pin::Seed,
        &["select setseed(0.5)", "set seed = 0.5", "set local seed to 0.5", "set \"SEED\" to 1"],
    );
    pinned(Pin::Seed, &["select set_config('seed', '0.5', true)"]);
    pinned(Pin::Dblink, &["select dblink_connect('x')", "select public.dblink_connect_u('a', 'b')"]);
}

#[test]
fn roles_pin_but_for_the_own() {
    pinned(
        Pin::Role,
        &[
            "set role x",
            "set session role x",
            "set role to 'x'",
            "set \"role\" = x",
            "set role \"none\"",
            "set session authorization x",
            "set session session authorization 'x'",
            "set session_authorization = x",
            "select set_config('role', 'x', false)",
        ],
    );
    for text in [
        "reset role",
        "reset session authorization",
        "set role none",
        "set role to default",
        "set session authorization default",
    ] {
        let resets_settings = text != "set role none";
        let told = Effects { changes_settings: true, resets_settings, ..Effects::default() };
        assert_eq!(of(text), told, "{text}");
    }
}

#[test]
fn settings_are_told_and_custom_ones_named() {
    let cases: &[(&str, &[&str])] = &[
        ("set x = 1", &[]),
        ("set session x to 1", &[]),
        ("SET TIME ZONE 'UTC'", &[]),
        ("set names 'utf8'", &[]),
        ("set session characteristics as transaction read only", &[]),
        ("reset x", &[]),
        ("reset all", &[]),
        ("select set_config('x', 'y', false)", &[]),
        ("select set_config('x', 'y', 'true')", &[]),
        ("select set_config('x', 'y', $1)", &[]),
        ("select set_config('x', 'y', true or false)", &[]),
        ("select set_config('x', set_config('a.b', 'y', false), true)", &["a.b"]),
        ("set App.Tenant = '1'", &["app.tenant"]),
        ("set session app.tenant to '1'", &["app.tenant"]),
        ("set \"App\".\"Tenant\" to '1'", &["app.tenant"]),
        ("set \"a.b\" = 1", &["a.b"]),
        ("set a.b.c = 1", &["a.b.c"]),
        (
            "set local.x = 1; set session.y = 1; set transaction.z = 1",
            &["local.x", "session.y", "transaction.z"],
        ),
        ("reset app.x", &["app.x"]),
        ("select set_config('app.x', $1, false), set_config('app.y', $2, false)", &["app.x", "app.y"]),
        ("select pg_catalog.\"set_config\" (E'app.x', array[1, f(2, 3)]::text, false)", &["app.x"]),
        ("select set_config($$app.x$$, 'y', false)", &["app.x"]),
        ("begin; set app.x = 1; set app.x = 2; commit", &["app.x"]),
        ("set app_x.größe = 'x'; ", &[]),
    ];
    for (text, custom) in cases {
        let seen = of(text);
        assert!(seen.changes_settings, "{text}");
        assert_eq!(seen.custom_settings, *custom, "{text}");
        assert_eq!(seen.pin, text.contains('ö').then_some(Pin::UnknownSetting), "{text}");
    }
    pinned(
        Pin::UnknownSetting,
        &[
            "select set_config($1, $2, false)",
            "select set_config('a' || 'b', 'x', true)",
            "select set_config('app'\n'.x', 'y', false)",
            "select set_config(E'app\\x2ex', 'y', false)",
            "select set_config(U&'app!002ex' uescape '!', 'y', false)",
            "select set_config(setting_name => 'a.b', new_value => 'c', is_local => false)",
            "select set_config(name, setting, false) from t",
            "set app /* x */ . y = 1",
        ],
    );
    let many: String = (0..17).map(|number| format!("set a.b{number} = 1;")).collect();
    pinned(Pin::UnknownSetting, &[&many, &format!("set a.{} = 1", "x".repeat(64))]);
}

#[test]
fn what_texts_are_read_by_up_to_the_end_of_a_transaction_is_told() {
    for text in [
        "set local timezone = 'UTC'",
        "SET LOCAL TIME ZONE 'UTC'",
        "begin; set local DateStyle = 'German'",
        "set local names 'LATIN1'",
        "set local xml option content",
        "set local \"IntervalStyle\" to 'iso_8601'",
        "select set_config('TimeZone', $1, true)",
    ] {
        assert_eq!(of(text), Effects { reads_otherwise: true, ..Effects::default() }, "{text}");
        assert!(watched(text.as_bytes(), &[]).reads_otherwise || text.contains(['"', '(']), "{text}");
    }
    assert!(of("do $$ begin set local timezone = 'UTC'; end $$").reads_otherwise);
    for text in ["set timezone = 'UTC'", "set local app.timezone = 'x'", "set local work_mem = '5MB'"] {
        assert!(!of(text).reads_otherwise, "{text}");
    }
}

#[test]
fn blocks_are_looked_into() {
    let block = Effects {
        changes_settings: true,
        resets_settings: true,
        changes_definitions: true,
        ..Effects::default()
    };
    assert_eq!(of("do $$ begin update t set a = 'create temp'; /* listen */ end $$"), block);
    let named = Effects { custom_settings: vec!["a.b".to_owned()], ..block.clone() };
    assert_eq!(of("do $$ begin set a.b = 1; perform set_config('a.b', 'x', false); end $$"), named);
    assert_eq!(of("do 'begin perform set_config(''a.b'', ''x'', false); end'"), named);
    assert!(of("do $$ begin perform currval('s'); end $$").reads_sequences);
    pinned(
        Pin::Unclear,
        &[
            "do $$ begin execute 'create ' || x; end $$",
            "do E'begin\\nend'",
            "do language plperl $$ $x = 1 $$",
            "do $$ $$ language \"plperl\"",
            "select query_to_xml('select pg_advisory_lock(1)', true, true, '')",
        ],
    );
    pinned(Pin::Role, &["do $$ begin set role x; end $$"]);
    assert_eq!(of("do language 'plpgsql' $$ begin null; end $$"), block);
}

#[test]
fn what_a_prepared_statement_does_is_not_known() {
    pinned(
        Pin::Unclear,
        &[
            "execute insula_7",
            "EXECUTE p (1, 2)",
            "explain (analyze) execute insula_7",
            "create table x as execute insula_7",
            "select 1; /**/ eXeCuTe \"insula_7\"",
        ],
    );
}

#[test]
fn prepared_statements_that_go_are_told() {
    let cases: &[(&str, &[u8], std::ops::Range<usize>)] = &[
        ("deallocate A1", b"a1", 11..13),
        ("DEALLOCATE PREPARE \"S \"\"1\"", b"S \"1", 19..26),
        (" deallocate/**/prepare ;", b"prepare", 15..22),
        ("deallocate prepare prepare", b"prepare", 19..26),
        ("deallocate \"all\";", b"all", 11..16),
        ("deallocate \"größe\"", "größe".as_bytes(), 11..20),
    ];
    for (text, name, range) in cases {
        let seen = of(text);
        let found = seen.deallocates.as_ref().unwrap();
        assert_eq!((found.name.as_slice(), &found.range), (*name, range), "{text}");
        assert_eq!(Effects { deallocates: None, ..seen }, Effects::default(), "{text}");
    }
    for text in ["deallocate all", "deallocate prepare all"] {
        assert_eq!(of(text), Effects { drops_prepared: true, ..Effects::default() }, "{text}");
    }
    let all =
        Effects { drops_prepared: true, changes_settings: true, resets_settings: true, ..Effects::default() };
    assert_eq!(of("discard all"), all);
    pinned(Pin::Unclear, &["deallocate a; select 1", "select 1; deallocate a", "deallocate a; deallocate b"]);
    assert_eq!(of(&format!("deallocate {}", "x".repeat(64))).pin, Some(Pin::Unclear));
}

#[test]
fn sequences_and_definitions_are_told() {
    for text in ["select currval('s')", "insert into t values (LASTVAL())", "select \"lastval\"()"] {
        assert_eq!(of(text), Effects { reads_sequences: true, ..Effects::default() }, "{text}");
    }
    for text in [
        "create table t (a int)",
        "ALTER TABLE t ADD b int",
        "drop table t",
        "select 1; drop table t",
        "select 1 into t",
        "explain analyze create table t as select 1",
        "import foreign schema a from server b into c",
        "create function f() returns int language sql set x = '1' as 'select 1'",
    ] {
        assert_eq!(of(text), Effects { changes_definitions: true, ..Effects::default() }, "{text}");
    }
}

#[test]
fn what_may_be_read_in_several_ways_counts_in_each() {
    // Where backslashes protect something, and where they do not.
    pinned(Pin::Listen, &["select 'a\\'; listen x; select ''", "select 'a\\'' ; listen x; --'"]);
    pinned(Pin::Unclear, &["select U&\"pg_\\0061dvisory_lock\"(1)", "set u&\"\\0072ole\" = x"]);
    assert_eq!(effects(b"select E'\x83\x5c'; listen x; --'").pin, Some(Pin::Listen));
    assert_eq!(effects(b"listen $\x81\xca$ x $\xfa\x54$"), Effects::unclear());
    nothing(&[
        "insert into files values ('C:\\temp\\'), ('D:\\x')",
        "select größe from tabelle where ä = 'temp'",
    ]);
}

#[test]
fn names_of_reasons_are_their_own() {
    let mut names: Vec<_> = Pin::ALL.iter().map(|pin| pin.as_str()).collect();
    assert!(names.iter().all(|name| name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')));
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), Pin::ALL.len());
}

/// Nanoseconds for one statement. Run by hand, with
/// `--release -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn cost() {
    const TIMES: u32 = 1_000_000;
    let insert = format!("INSERT INTO documents (body) VALUES ('{}')", "lorem ipsum dolor_sit ".repeat(2900));
    for (text, times) in [
        ("BEGIN", TIMES),
        ("COMMIT;", TIMES),
        ("SELECT abalance FROM pgbench_accounts WHERE aid = 12345;", TIMES),
        (
            "select o.id, o.total, c.name from orders o join customers c on c.id = o.customer_id where o.id = $1",
            TIMES,
        ),
        (
            "INSERT INTO pgbench_history (tid, bid, aid, delta, mtime) VALUES (1, 2, 3, 4, CURRENT_TIMESTAMP)",
            TIMES,
        ),
        (
            "UPDATE pgbench_accounts SET abalance = abalance + 1234, touched_at = now() WHERE aid = 567890 and x",
            TIMES,
        ),
        ("SET LOCAL statement_timeout = '5s'", TIMES),
        ("SELECT set_config('app.tenant_id', $1, true)", TIMES),
        ("CREATE TEMPORARY TABLE x (a int, b text) ON COMMIT DROP", TIMES),
        (&insert, 1_000),
    ] {
        let began = std::time::Instant::now();
        for _ in 0..times {
            std::hint::black_box(effects(std::hint::black_box(text.as_bytes())));
        }
        let nanoseconds = began.elapsed().as_nanos() / u128::from(times);
        println!("{nanoseconds:>6} ns, {:>5} bytes: {}", text.len(), &text[..text.len().min(60)]);
    }
}
