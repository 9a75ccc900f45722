//! No spelling hides anything, and neither do the quick test or the watch that
//! reads in pieces, against the reading of the whole text.

use proptest::prelude::*;

use super::{of, watched};
use crate::effects::read;
use crate::quick::leaves_nothing;
use crate::{Effects, Pin, effects};

/// Whether all of the least is in what is seen, or the session is pinned for
/// another reason.
fn is_in(least: &Effects, seen: &Effects) -> bool {
    let is_pinned = seen.pin.is_some();
    // Where the pieces end decides how soon a text with too many readings is
    // given up, so that one may be read that the other gave up.
    let is_given_up = *least == Effects::unclear();
    is_given_up
        || (least.pin.is_none() || is_pinned)
            && (!least.changes_settings || seen.changes_settings)
            && (!least.resets_settings || seen.resets_settings)
            && (!least.drops_prepared || seen.drops_prepared)
            && (!least.reads_sequences || seen.reads_sequences)
            && (!least.changes_definitions || seen.changes_definitions)
            && (is_pinned || least.custom_settings.iter().all(|name| seen.custom_settings.contains(name)))
            && (is_pinned || least.deallocates.is_none() || seen.deallocates.is_some())
}

/// Statements in tokens; those with a star may be written in quotes.
const SPELLED: &[&str] = &[
    "create temp table x ( )",
    "create or replace temporary view x as select 1",
    "select 1 into temp x",
    "select *pg_advisory_lock ( 1 )",
    "select *pg_catalog . *pg_try_advisory_lock_shared ( 1 )",
    "declare c cursor with hold for select 1",
    "listen x",
    "load 'x'",
    "prepare a as select 1",
    "set *role = x",
    "set session authorization x",
    "set *app . *x = 1",
    "set *x to 1",
    "set session *seed to 1",
    "reset *a . *b",
    "reset all",
    "set *x to default",
    "set *names",
    "select *set_config ( 'a.b' , 'c' , false )",
    "select *set_config ( 'role' , 'c' , $1 )",
    "select *set_config ( $1 , 'c' , true )",
    "select *setseed ( 1 )",
    "select *dblink_connect ( 'x' )",
    "discard all",
    "deallocate all",
    "deallocate *a",
    "select *currval ( 's' )",
    "create table *pg_temp . x ( )",
    "set *search_path to 'pg_temp'",
    "drop table x",
    "do $$begin/**/perform/**/pg_advisory_lock(1);end$$",
    "do language *plpgsql 'begin/**/set/**/role/**/x;end'",
];

const GAPS: &[&str] = &[
    " ",
    "\n",
    "\t\r\n",
    "/**/",
    "/* ' */",
    "/* /* \" */ */",
    " --x\n",
    "\n--'\n",
    " /*$$*/ ",
    "\u{c}",
    "--\\\r",
];

const BEFORE: &[&str] = &[
    "",
    ";",
    "select 1;",
    "select '''';",
    "select $a$;$$'$a$;",
    "select \"a\"\"b\" from größe;",
    "insert into t values (E'\\'', 'C:\\');",
    "begin;",
    "/* x */",
    "update t set a = 1;",
];

fn spelled() -> impl Strategy<Value = (usize, String)> {
    let choices = proptest::collection::vec((any::<u8>(), any::<u8>()), 24);
    (0..SPELLED.len(), proptest::sample::select(BEFORE), choices).prop_map(|(index, before, choices)| {
        let mut text = before.to_owned();
        for (token, (gap, spelling)) in SPELLED[index].split(' ').zip(choices) {
            let is_fixed = token.starts_with(['\'', '$']);
            text.push_str(if token == "." && spelling % 2 == 0 {
                ""
            } else {
                GAPS[usize::from(gap) % GAPS.len()]
            });
            match token.strip_prefix('*').filter(|name| !name.is_empty()) {
                Some(name) if spelling % 3 == 0 => text.push_str(&format!("\"{name}\"")),
                Some(name) if spelling % 3 == 1 => text.push_str(&name.to_ascii_uppercase()),
                Some(name) => text.push_str(name),
                None if !is_fixed && spelling % 3 == 1 => text.push_str(&token.to_ascii_uppercase()),
                None => text.push_str(token),
            }
        }
        (index, text)
    })
}

/// What the states of the reading stumble over.
const FRAGMENTS: &[&str] = &[
    "set ",
    "SET",
    "reset ",
    "local ",
    "session ",
    "role",
    "authorization",
    "a.b",
    "seed",
    "=",
    " to ",
    "1",
    ";",
    "create ",
    "temp ",
    "or replace ",
    "select ",
    "insert ",
    "into ",
    "pg_temp",
    "\"pg_temp\"",
    "\"",
    "'",
    "''",
    "set_config",
    "(",
    ")",
    ",",
    "'a.b'",
    "true",
    "false",
    "$1",
    "$$",
    "$a$",
    "do ",
    "language ",
    "plpgsql",
    "deallocate ",
    "prepare ",
    "all",
    "discard ",
    "declare ",
    "cursor ",
    "with ",
    "hold ",
    "for ",
    "listen ",
    "load ",
    "execute ",
    "explain ",
    "\\",
    "é",
    "u&\"",
    "--",
    "/*",
    "*/",
    "\n",
    " ",
    ".",
    "currval",
    "\"currval\"",
    "pg_advisory_lock",
    "search_path",
    "E'",
    "transaction ",
    "begin ",
    "[",
    "]",
    "\"a.b\"",
    "'role'",
];

/// Bytes of characters that may have a backslash or a letter in them.
const FOREIGN: &[&[u8]] = &[b"\x81\x5f", b"\x83\x5c", b"\xe0", b"\x81"];

fn texts() -> impl Strategy<Value = String> {
    proptest::collection::vec(proptest::sample::select(FRAGMENTS), 0..28).prop_map(|parts| parts.concat())
}

fn cuts() -> impl Strategy<Value = Vec<usize>> {
    proptest::collection::vec(1_usize..6, 0..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn spelling_hides_nothing((index, text) in spelled()) {
        let least = of(&SPELLED[index].replace('*', ""));
        prop_assert_ne!(&least, &Effects::default());
        let seen = of(&text);
        prop_assert!(is_in(&least, &seen), "{:?}: {:?} not in {:?}", text, least, seen);
    }

    #[test]
    fn the_quick_test_misses_nothing(text in texts()) {
        for head in ["", "select ", "insert into t values (", "with x as ("] {
            let text = format!("{head}{text}");
            if leaves_nothing(text.as_bytes()) {
                let mut read = read(text.as_bytes());
                // An INTO that the server would refuse there.
                read.changes_definitions &= !text.trim().starts_with("insert");
                prop_assert!(read == Effects::default() || read.pin == Some(Pin::Unclear), "{:?}: {:?}", text, read);
            }
        }
    }

    #[test]
    fn a_watch_sees_no_less(text in texts(), cuts in cuts()) {
        let (least, seen) = (of(&text), watched(text.as_bytes(), &cuts));
        prop_assert!(is_in(&least, &seen), "{:?}: {:?} not in {:?}", text, least, seen);
    }

    #[test]
    fn a_watch_sees_every_spelling((_, text) in spelled(), cuts in cuts()) {
        let (least, seen) = (of(&text), watched(text.as_bytes(), &cuts));
        prop_assert!(is_in(&least, &seen), "{:?}: {:?} not in {:?}", text, least, seen);
    }

    #[test]
    fn no_bytes_make_it_panic(text in proptest::collection::vec(any::<u8>(), 0..300), cuts in cuts()) {
        let (least, seen) = (read(&text), watched(&text, &cuts));
        prop_assert!(is_in(&least, &seen));
        let _ = effects(&text);
    }

    #[test]
    fn nor_do_fragments_with_foreign_bytes(
        parts in proptest::collection::vec(
            prop_oneof![
                proptest::sample::select(FRAGMENTS).prop_map(|text| text.as_bytes().to_vec()),
                proptest::sample::select(FOREIGN).prop_map(<[u8]>::to_vec),
            ],
            0..28,
        ),
        cuts in cuts(),
    ) {
        let text = parts.concat();
        prop_assert!(is_in(&effects(&text), &watched(&text, &cuts)), "{}", text.escape_ascii());
    }
}
