//! What clients say, made up by chance: mostly as the protocol has it, so that
//! it gets far.

use bytes::{BufMut, BytesMut};
use insula_domain::Entropy;
use insula_pg_wire::frontend::{Named, Parse, put_query, tag};
use insula_testkit::SeededEntropy;

/// Statements that leave something behind, or end in another way than others.
const TEXTS: [&str; 30] = [
    "begin",
    "commit",
    "rollback",
    "select 1/0",
    "syntax error",
    "copy t from stdin",
    "set app.a = '1'",
    "set app.a = '2'",
    "set app.b = '3'",
    "show app.a",
    "show app.b",
    "reset all",
    "discard all",
    "deallocate all",
    "deallocate s1",
    "deallocate s2",
    "",
    "show insula.tenant",
    "grant a to b",
    "create table t (a int)",
    "select lastval()",
    "listen news",
    "prepare p as select 1",
    "select set_config('app.a', '5', true)",
    "do $$ begin end $$",
    "select 'a'",
    "select 'b'",
    "select 'c'",
    "select 'd'",
    "select \"pg_temp\".f()",
];

const NAMES: [&[u8]; 4] = [b"", b"s1", b"s2", b"s3"];
const PORTALS: [&[u8]; 3] = [b"", b"", b"p1"];

/// Choices that follow from a seed.
pub(super) struct Choice(SeededEntropy);

impl Choice {
    pub fn of(seed: u64) -> Self {
        Self(SeededEntropy::new(seed))
    }

    pub fn below(&self, bound: usize) -> usize {
        let mut bytes = [0; 8];
        self.0.fill(&mut bytes);
        usize::try_from(u64::from_le_bytes(bytes) % bound.max(1) as u64).unwrap()
    }

    pub fn one<T: Copy>(&self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    fn often(&self) -> bool {
        self.below(4) > 0
    }
}

/// What `session` takes, of two clients made up from a seed.
pub(super) fn conversation(seed: u64) -> Vec<u8> {
    let choice = Choice::of(seed);
    let clients = [0, 1].map(|_| client(&choice));
    data_of(seed, [&clients[0], &clients[1]])
}

/// What `session` takes: a seed, how much the first client says, and what both
/// of them say.
pub(super) fn data_of(seed: u64, clients: [&[u8]; 2]) -> Vec<u8> {
    let first = u16::try_from(clients[0].len()).unwrap_or(u16::MAX);
    [&seed.to_le_bytes()[..], &first.to_le_bytes(), clients[0], clients[1]].concat()
}

fn client(choice: &Choice) -> BytesMut {
    let mut out = BytesMut::new();
    for _ in 0..choice.below(30) {
        match choice.below(10) {
            0..=3 => simple(choice, &mut out),
            9 => put(&mut out, tag::FUNCTION_CALL, &[0; 10]),
            _ => extended(choice, &mut out),
        }
    }
    out
}

pub(super) fn put(out: &mut BytesMut, message_tag: u8, body: &[u8]) {
    out.put_u8(message_tag);
    out.put_u32(u32::try_from(body.len() + 4).unwrap());
    out.put_slice(body);
}

fn simple(choice: &Choice, out: &mut BytesMut) {
    let text = choice.one(&TEXTS);
    put_query(out, text.as_bytes()).unwrap();
    if text.starts_with("copy") {
        data(choice, out);
    }
}

/// The data of a COPY, with its end.
fn data(choice: &Choice, out: &mut BytesMut) {
    for _ in 0..choice.below(4) {
        put(out, tag::COPY_DATA, choice.one(&[&b"row\n"[..], b"row\n", b"bad\n", b""]));
    }
    if choice.often() {
        put(out, tag::COPY_DONE, b"");
    } else {
        put(out, tag::COPY_FAIL, b"no\0");
    }
}

fn extended(choice: &Choice, out: &mut BytesMut) {
    let mut may_copy = false;
    for _ in 0..=choice.below(3) {
        let (name, portal) = (choice.one(&NAMES), choice.one(&PORTALS));
        if choice.often() {
            let text = choice.one(&TEXTS);
            may_copy |= text.starts_with("copy");
            Parse { name, query: text.as_bytes(), parameter_types: &[0, 0] }.put(out).unwrap();
        }
        if choice.below(4) == 0 {
            Named::Statement(choice.one(&NAMES)).put(tag::DESCRIBE, out);
        }
        if choice.often() {
            let value = u8::try_from(choice.below(10)).unwrap();
            let body = [portal, b"\0", name, b"\0\0\0\0\x01\0\0\0\x01", &[b'0' + value], b"\0\0"].concat();
            put(out, tag::BIND, &body);
        }
        if choice.below(4) == 0 {
            Named::Portal(portal).put(tag::DESCRIBE, out);
        }
        if choice.often() {
            put(out, tag::EXECUTE, &[portal, b"\0\0\0\0\0"].concat());
            if may_copy {
                if choice.below(2) == 0 {
                    put(out, tag::SYNC, b"");
                }
                data(choice, out);
            }
        }
        if choice.below(5) == 0 {
            Named::Statement(choice.one(&NAMES)).put(tag::CLOSE, out);
        }
        if choice.below(6) == 0 {
            put(out, tag::FLUSH, b"");
        }
    }
    put(out, tag::SYNC, b"");
}
