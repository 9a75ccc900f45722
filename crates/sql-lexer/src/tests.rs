//! The lexer against PostgreSQL's own, against itself cut into pieces, and
//! against texts that mean different things under different settings.

use std::cell::RefCell;

use pg_query::protobuf::KeywordKind;
use proptest::prelude::*;

use crate::token::WORD_BYTES_MAX;
use crate::{Head, Outcome, Reader, Token};

/// Stands for a word that is longer than any keyword.
const TOO_LONG: &str = "…";

/// Keywords at the beginning of each statement, as the server reads it with its
/// default settings.
fn keywords(text: &[u8], cuts: &[usize]) -> Vec<Vec<String>> {
    let found = RefCell::new(Vec::new());
    let collect = |head: &Head| -> Option<()> {
        found.borrow_mut().push(words(head));
        None
    };
    let mut reader = Reader::by_default(collect);
    feed(text, cuts, |piece| reader.feed(piece));
    assert_ne!(reader.finish(), Outcome::Found(()));
    found.into_inner()
}

fn words(head: &Head) -> Vec<String> {
    let word = |token: &Token| match token {
        Token::Word(word) => {
            let text = word.as_bytes().map(|word| String::from_utf8_lossy(word).into_owned());
            Some(text.unwrap_or_else(|| TOO_LONG.to_owned()))
        }
        _ => None,
    };
    head.tokens().iter().map_while(word).collect()
}

fn feed(text: &[u8], cuts: &[usize], mut each: impl FnMut(&[u8])) {
    let (mut rest, mut cuts) = (text, cuts.iter().copied());
    while !rest.is_empty() {
        let (piece, after) = rest.split_at(cuts.next().unwrap_or(rest.len()).clamp(1, rest.len()));
        each(piece);
        rest = after;
    }
}

/// The same from PostgreSQL's lexer; `None` where it refuses the text.
fn keywords_of_postgresql(text: &str) -> Option<Vec<Vec<String>>> {
    let tokens = pg_query::scan(text).ok()?.tokens;
    let (mut statements, mut statement, mut is_over, mut count) = (vec![], vec![], false, 0);
    for token in tokens {
        let piece = &text[token.start as usize..token.end as usize];
        if piece.starts_with("--") || piece.starts_with("/*") {
            continue;
        }
        if piece == ";" {
            if count > 0 {
                statements.push(std::mem::take(&mut statement));
            }
            (is_over, count) = (false, 0);
            continue;
        }
        // N'…' is a keyword and a string to the one, and two to the other.
        let is_word = token.keyword_kind != KeywordKind::NoKeyword as i32
            || token.token == pg_query::protobuf::Token::Ident as i32;
        let is_word = is_word && !piece.contains(['"', '\'']);
        (is_over, count) = (is_over || !is_word, count + 1);
        if !is_over && statement.len() < 5 {
            let is_kept = piece.len() <= WORD_BYTES_MAX;
            statement.push(if is_kept { piece.to_ascii_lowercase() } else { TOO_LONG.to_owned() });
        }
    }
    if count > 0 {
        statements.push(statement);
    }
    Some(statements)
}

/// What lexers stumble over.
const FRAGMENTS: &[&str] = &[
    "lock",
    "LOCK",
    "alter role",
    "select",
    "table",
    "e",
    "E",
    "u",
    "U&",
    "b",
    "x",
    "n",
    "_",
    "a1",
    "é",
    "日本",
    "'",
    "''",
    "\"",
    "\"\"",
    "$",
    "$$",
    "$a$",
    "$b$",
    "$a",
    "$1",
    "a$",
    "$é$",
    ";",
    ";;",
    "--",
    "-",
    "/*",
    "*/",
    "/",
    "*",
    "/**/",
    "\n",
    "\r",
    " ",
    "\t",
    "\u{c}",
    "\\",
    "\\'",
    "\\\\",
    "'\n'",
    "' '",
    "'\n--x\n'",
    "1",
    "0",
    "0x",
    "0x1e",
    "1e",
    "1e5",
    "1.5",
    ".",
    "..",
    "1.",
    ".5",
    "1_0",
    "+",
    "-1",
    "::",
    ":=",
    "=>",
    "(",
    ")",
    "@",
    "[",
    "|",
    "E'\\''",
    "'a\\'",
    "U&'\\'",
    "b'1'",
    "x'1'",
    "n'a'",
    "%",
    "<",
    ",",
];

fn texts() -> impl Strategy<Value = String> {
    proptest::collection::vec(proptest::sample::select(FRAGMENTS), 0..24).prop_map(|parts| parts.concat())
}

/// The objection of these tests: a statement that begins with LOCK.
fn lock(head: &Head) -> Option<&'static str> {
    head.begins_with("lock").then_some("lock")
}

fn read(text: &[u8]) -> Outcome<&'static str> {
    Reader::read(lock, text)
}

/// The same, but that one of them was given up.
fn same(pieces: Outcome<&str>, whole: Outcome<&str>) -> Result<(), TestCaseError> {
    prop_assert!(pieces == whole || [pieces, whole].contains(&Outcome::Unclear), "{:?} {:?}", pieces, whole);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn postgresql_reads_the_same(text in texts()) {
        if let Some(expected) = keywords_of_postgresql(&text)
            && !text.contains("$é") && !text.contains("$日")
        {
            prop_assert_eq!(keywords(text.as_bytes(), &[]), expected, "{:?}", text);
        }
    }

    #[test]
    fn what_postgresql_would_see_is_among_the_readings(text in texts()) {
        if let Some(statements) = keywords_of_postgresql(&text)
            && statements.iter().any(|words| words.first().is_some_and(|word| word == "lock"))
        {
            prop_assert_ne!(read(text.as_bytes()), Outcome::Clear, "{:?}", text);
        }
    }

    #[test]
    fn pieces_change_nothing(text in texts(), cuts in proptest::collection::vec(1_usize..5, 0..80)) {
        prop_assert_eq!(keywords(text.as_bytes(), &cuts), keywords(text.as_bytes(), &[]));
        let mut reader = Reader::new(lock);
        feed(text.as_bytes(), &cuts, |piece| reader.feed(piece));
        same(reader.finish(), read(text.as_bytes()))?;
    }

    #[test]
    fn no_bytes_make_it_panic(
        text in proptest::collection::vec(any::<u8>(), 0..400),
        cuts in proptest::collection::vec(1_usize..40, 0..40),
    ) {
        let mut reader = Reader::new(lock);
        feed(&text, &cuts, |piece| reader.feed(piece));
        same(reader.finish(), read(&text))?;
    }

    #[test]
    fn bytes_of_all_encodings_in_pieces(
        text in proptest::collection::vec(
            proptest::sample::select(&b"\x81\x81\x83\xe0'\\_E$a;@ \nlock"[..]), 0..60),
        cuts in proptest::collection::vec(1_usize..4, 0..60),
    ) {
        let mut reader = Reader::new(lock);
        feed(&text, &cuts, |piece| reader.feed(piece));
        same(reader.finish(), read(&text))?;
    }
}

#[test]
fn every_spelling_is_found() {
    for text in [
        "lock t",
        "LoCk\nt",
        "/* x /* y */ */lock t",
        "--x\rlock t",
        "--x\nlock/**/t",
        ";;lock t",
        "select 1;lock t;",
        "select 'a;';lock t",
        "select '''';lock t",
        "select 'a'\n'b';lock t",
        "select E'\\'';lock t",
        "select E'a'\n'\\'';lock t",
        "select E'a' --x\n --y\n '\\'';lock t",
        "select U&'\\';lock t",
        "select u&\"\\\";lock t",
        "select \"a\"\"b;\";lock t",
        "select $$;$a$;$$;lock t",
        "select $a$ $$ $b$ $aa$a$;lock t",
        "select $a$$a$;lock t",
        "select 1e5$a$'$a$;lock t",
        "select 1.e5$a$'$a$;lock t",
        "select $1$a$'$a$;lock t",
        "select 1--'\n;lock t",
        "select a$a$;lock t --$a$",
        "select é$a$;lock t --$a$",
        "select /*/ */ 1;lock t",
        "select /* **/ 1;lock t",
        "select 1 +--'\n 1;lock t",
        "\x0block t",
    ] {
        assert_eq!(read(text.as_bytes()), Outcome::Found("lock"), "{text}");
    }
}

#[test]
fn what_only_looks_like_one_is_none() {
    for text in [
        "",
        ";",
        "select 'x; lock t'",
        "select $$; lock t$$",
        "select $a$; lock t; $$ $b$ $a$",
        "select \"; lock t\"",
        "select 1 -- ; lock t",
        "select /* ; lock t /* */ ; lock t */ 1",
        "select E'\\'; lock t'",
        "\"lock\" t",
        "locks t",
        "select lock from t",
        "éLOCK t",
        "lock$ t",
        "'lock' t",
        // The server refuses these as a whole, since they end within something.
        "select '; lock t; select '''",
        "lock t; select 'x",
        "lock t; select $$x$a$",
        "lock t /* x",
    ] {
        assert_eq!(read(text.as_bytes()), Outcome::Clear, "{text}");
    }
}

/// Texts that hide a statement under one setting and show it under another:
/// both readings count.
#[test]
fn the_strictest_reading_counts() {
    for text in [
        // Found where backslashes protect nothing, and where they do.
        &b"select 'a\\'; lock t; select ''"[..],
        b"select 'a\\'' ; lock t; --'",
        // SJIS and its like: the backslash is the second byte of a character.
        b"select E'\x83\x5c'; lock t; --'",
        // SHIFT_JIS_2004 has a character that is converted to a backslash.
        b"select E'\x81\x5f'' ; lock t; --'",
        b"select '\x81\x5f'' ; lock t; --'",
        // A tag with a backslash in its character.
        b"select $\x83\x5ca$ ' $\x83\x5ca$; lock t; --'",
        // A name that ends with such a character is no prefix of a string.
        b"select \x83\x5cE'\\'; lock t; --'",
        b"select \x83\x5cE'\\''; lock t; --'",
        // Two codes of one character in a tag.
        b"select $\x81\xca$ x $\xfa\x54$; lock t; --$\x81\xca$",
    ] {
        let outcome = read(text);
        assert_ne!(outcome, Outcome::Clear, "{}", text.escape_ascii());
    }
    // What honest clients send is not held against them.
    for text in [
        r"insert into files values ('C:\temp\'), ('D:\x')",
        r#"insert into documents values ('{"a": "line\nline", "b": "\"x\""}')"#,
        r"select E'it\'s', '日本語', U&'\0061'",
        "select \"名\" from 表 where 名 = '値_' and 名|名 = $1",
    ] {
        assert_eq!(read(text.as_bytes()), Outcome::Clear, "{text}");
    }
}

#[test]
fn readings_are_bounded_and_heads_are_as_they_are_written() {
    let mut text = b"select ".to_vec();
    for number in 0..64 {
        text.extend_from_slice(b"\x83\x5cE'\\' ");
        text.extend_from_slice(format!("; x{number} ").as_bytes());
    }
    assert_eq!(read(&text), Outcome::Unclear);
    let head = |head: &Head| Some(*head);
    let Outcome::Found(head) = Reader::read(head, b"Alter User \"a\" 1 + 2") else { panic!("no statement") };
    assert!(head.begins_with("alter user") && !head.begins_with("alter user a"));
    assert!(matches!(head.tokens()[2..], [Token::QuotedName, Token::Number, Token::Symbol(b'+')]));
}

/// For the decision record. Run by hand, with `--release -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
#[allow(clippy::print_stdout)]
fn throughput() {
    const BYTES: usize = 64 << 20;
    let long = |unit: &str| format!("insert into t values ('{}')", unit.repeat(BYTES / unit.len()));
    let cases = [
        ("a long literal", long("x")),
        ("a long literal with a backslash in 40 bytes", long("abcdefghijklmnopqrstuvwxyz 0123456789abc\\n")),
        ("a long literal of Japanese", long("日本語の文章です。")),
        ("many small rows", "(1, 'name of it', 2.5, true), ".repeat(BYTES / 30)),
        ("names and operators", "select a.b, c.d + 1 from t where x = $1; ".repeat(BYTES / 40)),
    ];
    for (what, text) in cases {
        let began = std::time::Instant::now();
        let mut reader = Reader::new(lock);
        text.as_bytes().chunks(16 * 1024).for_each(|piece| reader.feed(piece));
        let outcome = reader.finish();
        let rate = text.len() as f64 / 1e6 / began.elapsed().as_secs_f64();
        println!("{what}: {rate:.0} MB/s ({outcome:?})");
    }
    const TIMES: u32 = 1_000_000;
    let began = std::time::Instant::now();
    for number in 0..TIMES {
        let text = b"SELECT abalance FROM pgbench_accounts WHERE aid = 12345;";
        assert_eq!(read(&text[..text.len() - number as usize % 2]), Outcome::Clear);
    }
    println!("a statement of pgbench -S: {:?}", began.elapsed() / TIMES);
}
