//! The corpus of the fuzz targets, and what is made up and changed by chance, in
//! every run of the tests: the same each time, so that a failure comes again.

use std::panic::{UnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use bytes::BytesMut;
use insula_pg_wire::Header;
use insula_pg_wire::frontend::{Named, Parse, put_query, tag};

use super::conversation::{Choice, conversation, data_of, put};

/// Conversations that are made up, and changes of each thing of the corpus.
const CONVERSATIONS: u64 = 600;
const CHANGES: u64 = 40;

/// Where the corpus of a target is.
fn corpus(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target)
}

/// Tries all of a target's corpus, and each of it changed.
fn replay(target: &str, tries: fn(&[u8])) {
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(corpus(target)).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= 4, "the corpus of {target} is not there");
    for file in files {
        let data = std::fs::read(&file).unwrap();
        for seed in 0..=CHANGES {
            // The first is as it is.
            let changed = if seed == 0 { data.clone() } else { changed(&data, &Choice::of(seed)) };
            let failed = catch_unwind(|| tries(&changed)).is_err();
            assert!(!failed, "{}, change {seed}: {}", file.display(), changed.escape_ascii());
        }
    }
}

/// Bytes with some of them turned, left out, doubled, or of a number that is at
/// the edge of something.
fn changed(data: &[u8], choice: &Choice) -> Vec<u8> {
    let mut data = data.to_vec();
    for _ in 0..=choice.below(4) {
        let at = choice.below(data.len());
        let to = (at + choice.below(20)).min(data.len());
        match choice.below(5) {
            0 if at < data.len() => data[at] ^= 1 << choice.below(8),
            1 => drop(data.drain(at..to)),
            2 => {
                let again = data[at..to].to_vec();
                data.splice(at..at, again);
            }
            3 if at < data.len() => {
                data[at] = choice.one(&[0, 1, 4, 0x7f, 0x80, 0xff, b'\'', b'"', b'\\', b'$'])
            }
            _ => data.truncate(at.max(1)),
        }
    }
    data
}

#[test]
fn startup_packets_are_read_as_they_come() {
    replay("startup", super::startup);
}

#[test]
fn streams_are_cut_the_same_wherever_they_are_torn() {
    replay("stream", super::stream);
}

#[test]
fn statements_are_judged_the_same_wherever_they_are_torn() {
    replay("statements", super::statements);
}

#[test]
fn sessions_of_the_corpus_are_told_what_is_right() {
    replay("session", super::session);
}

#[test]
fn sessions_that_are_made_up_are_told_what_is_right() {
    for seed in 0..CONVERSATIONS {
        let data = conversation(seed);
        if let Some(how) = fails(&data) {
            panic!("{how}\n{}", smallest(seed, &data));
        }
    }
}

/// What one client says, by the letters of the messages: `B` and `D` of a
/// statement, `C` of one, `Q`, `E` and `S`; `P` with a name and a text.
fn said(messages: &[&str]) -> BytesMut {
    let mut out = BytesMut::new();
    for said in messages {
        let (letter, rest) = said.split_at(1);
        let (name, text) = rest.split_once(' ').unwrap_or((rest, ""));
        let name = name.as_bytes();
        match letter {
            "P" => Parse { name, query: text.as_bytes(), parameter_types: &[0, 0] }.put(&mut out).unwrap(),
            "B" => put(&mut out, tag::BIND, &[b"\0", name, &[0; 7]].concat()),
            "D" => Named::Statement(name).put(tag::DESCRIBE, &mut out),
            "C" => Named::Statement(name).put(tag::CLOSE, &mut out),
            "E" => put(&mut out, tag::EXECUTE, &[0; 5]),
            "Q" => put_query(&mut out, rest.as_bytes()).unwrap(),
            _ => put(&mut out, tag::SYNC, b""),
        }
    }
    out
}

/// Has it said beside another client that uses all of these names, in many
/// orders.
fn holds(messages: &[&str]) {
    let other = said(&[
        "Ps1 select 'a'",
        "Ps2 select 'b'",
        "Bs1",
        "E",
        "S",
        "Bs2",
        "E",
        "S",
        "P select 'e'",
        "B",
        "E",
        "S",
        "B",
        "E",
        "S",
        "Cs1",
        "Cs2",
        "Ps1 select 'c'",
        "S",
        "Bs1",
        "E",
        "S",
    ]);
    for seed in 0..100 {
        let data = data_of(seed, [&said(messages), &other]);
        if let Some(how) = fails(&data) {
            panic!("{how}\n{}", smallest(seed, &data));
        }
    }
}

const FAILS: [&str; 3] = ["P syntax error", "B", "E"];

#[test]
fn what_is_skipped_is_undone_from_its_end() {
    let skipped = |steps: &[&'static str]| {
        [&FAILS[..], steps, &["S", "Bs1", "E", "S", "Ps1 select 'b'", "S", "Bs1", "E", "S"]].concat()
    };
    holds(&skipped(&["Ps1 select 'a'", "Cs1"]));
    holds(&[&["Ps1 select 'a'", "S"], &skipped(&["Cs1", "Ps1 select 'c'", "Cs1"])[..]].concat());
}

#[test]
fn what_is_sent_ahead_waits_for_what_it_depends_on() {
    for ahead in [
        ["Ps1 select 'b'", "Bs1", "E"],
        ["Ps2 select 'a'", "Bs2", "E"],
        ["Bs1", "E", "Ps1 select 'd'"],
        ["Ds1", "Cs1", "Ps1 select 'b'"],
        ["Cs1", "Ps1 select 'c'", "Bs1"],
    ] {
        let behind = ["S", "Ps1 select 'd'", "S", "Bs1", "E", "S", "Bs2", "E", "S"];
        for before in [&["Ps1 select 'a'", "S"][..], &[]] {
            for skipped in [&["Ps1 select 'a'"][..], &["Cs1"], &["Cs1", "Ps1 select 'c'"]] {
                holds(&[before, &FAILS, skipped, &["S"], &ahead, &behind].concat());
            }
        }
    }
}

#[test]
fn what_is_sent_behind_a_discard_stays() {
    for all in ["Qdiscard all", "Qdeallocate all"] {
        holds(&[
            "Ps1 select 'a'",
            "S",
            all,
            "Ps1 select 'b'",
            "Ps2 select 'a'",
            "S",
            "Bs1",
            "E",
            "Bs2",
            "E",
            "S",
        ]);
        holds(&["Ps1 select 'a'", "S", "Qbegin", all, "Bs1", "E", "S", "Qrollback", "Bs1", "E", "S"]);
        // In the same batch, where the server cannot be waited for.
        let text = format!("P {}", &all[1..]);
        let behind = [&text, "B", "E", "Ps2 select 'a'", "Ps1 select 'b'", "Bs1", "E", "S", "Bs1", "E", "S"];
        holds(&[&["Ps1 select 'a'", "S"], &behind[..]].concat());
    }
}

#[test]
fn the_unnamed_statement_is_what_the_server_has_looked_at() {
    let known = ["P select 'a'", "B", "E", "S"];
    let behind = ["S", "B", "E", "S", "Qselect 'd'", "B", "E", "S"];
    for skipped in [&["P select 'b'"][..], &["C"], &["P select 'b'", "C"]] {
        let fails = ["Bnone", "E"];
        holds(&[&known[..], &fails, skipped, &behind].concat());
        // Sent ahead, and what is changed again.
        holds(&[&known[..], &fails, skipped, &["S", "P select 'c'"], &behind].concat());
        holds(&[&known[..], &fails, skipped, &["S", "Qselect 'c'"], &behind].concat());
        holds(&[&known[..], &fails, skipped, &["S", "Bnone", "P select 'c'"], &behind].concat());
    }
    // Another's is on the backend that it gets.
    holds(
        &[&known[..], &["Bnone", "B", "E", "S"], &["B", "E", "S"], &["Bnone", "B", "P select 'c'"], &behind]
            .concat(),
    );
}

#[test]
fn a_deallocate_that_fails_takes_nothing_away() {
    let known = ["Ps1 select 'a'", "S"];
    let behind = ["Bs1", "E", "S", "Ps1 select 'b'", "S", "Bs1", "E", "S"];
    let begun = ["Qbegin", "Qsyntax error", "Qdeallocate s1", "Qrollback"];
    holds(&[&known[..], &begun[..], &behind].concat());
    holds(&[&known[..], &["Qdeallocate s1"], &behind].concat());
    for deallocates in [
        &["P deallocate s1", "S"][..],
        &["P deallocate s1", "B", "E", "Bnone", "S"],
        &["Bnone", "P deallocate s1", "B", "E", "S"],
        &["Qbegin", "P deallocate s1", "B", "S", "E", "S", "Qcommit"],
    ] {
        holds(&[&known, deallocates, &behind].concat());
    }
}

/// How a session fails, if it does.
fn fails(data: &[u8]) -> Option<String> {
    caught(|| super::session(data))
}

fn caught(tries: impl FnOnce() + UnwindSafe) -> Option<String> {
    let payload = catch_unwind(tries).err()?;
    let text = payload.downcast_ref::<String>().cloned();
    Some(text.or_else(|| payload.downcast_ref::<&str>().map(ToString::to_string)).unwrap_or_default())
}

/// As few messages of a conversation that fails as will still fail, to be read.
fn smallest(seed: u64, data: &[u8]) -> String {
    let mut clients = taken_apart(data);
    let put_together =
        |clients: &[Vec<&[u8]>; 2]| data_of(seed, [&clients[0].concat(), &clients[1].concat()]);
    let mut count = 8;
    while count > 0 {
        for client in 0..2 {
            let mut at = 0;
            while at < clients[client].len() {
                let mut fewer = clients.clone();
                let to = (at + count).min(fewer[client].len());
                fewer[client].drain(at..to);
                match fails(&put_together(&fewer)) {
                    Some(_) => clients = fewer,
                    None => at += count,
                }
            }
        }
        count /= 2;
    }
    let show = |message: &&[u8]| format!("{}[{}]", char::from(message[0]), message[5..].escape_ascii());
    let show = |messages: &Vec<&[u8]>| messages.iter().map(show).collect::<Vec<_>>().join(" ");
    format!("seed {seed}, one client: {}\nthe other: {}", show(&clients[0]), show(&clients[1]))
}

/// The messages of both clients of a conversation.
fn taken_apart(data: &[u8]) -> [Vec<&[u8]>; 2] {
    let first = usize::from(u16::from_le_bytes([data[8], data[9]]));
    let (one, other) = data[10..].split_at(first);
    [one, other].map(|mut stream| {
        let mut messages = Vec::new();
        while let Ok(Some(header)) = Header::parse(stream) {
            let (message, rest) = stream.split_at(header.message_bytes());
            messages.push(message);
            stream = rest;
        }
        messages
    })
}

#[test]
fn a_server_that_owes_something_is_seen() {
    // The canary: a client that is told of one thing what another one asked.
    let query = |text: &str| {
        let mut out = bytes::BytesMut::new();
        insula_pg_wire::frontend::put_query(&mut out, text.as_bytes()).unwrap();
        out
    };
    let (one, other) = (query("select 'a'"), query("select 'b'"));
    assert!(caught(|| crate::session::trial::compare(&one, &one)).is_none());
    let how = caught(|| crate::session::trial::compare(&one, &other)).expect("it is seen");
    assert!(how.starts_with("told apart from message 0 on"), "{how}");
}
