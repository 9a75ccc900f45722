//! Sessions on trial: what two clients send goes through the front's own
//! decisions to servers that only play PostgreSQL, in pieces and in an order
//! that a seed decides. Each client must be told what a server of its own,
//! without a front, would have told it, and no backend may be let go that owes
//! something.

// It fails as tests do.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

mod manners;
mod server;
mod statement;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use bytes::{Buf, BytesMut};
use insula_domain::{ClusterName, DatabaseTerms, Epoch, Isolation, Placement, PoolMode, TenantId};
use insula_pg_wire::frontend::tag;
use insula_pg_wire::{Header, Message, read_message};

use self::server::{Server, Settings, essence};
use self::statement::Statement;
use super::from_client::FromClient;
use super::from_server::FromServer;
use super::lane::Lane;
use super::memory::Memory;
use super::turn::{Ending, Turn};
use crate::backend::Contents;
use crate::guard::Guard;
use crate::pipeline::Pipeline;
use crate::prepared::Statements;
use crate::show::Answers;
use crate::vital::{Caller, Entry, Vitals};

/// What is sent beyond this is left out: it would only take longer.
const STREAM_BYTES_MAX: usize = 16 * 1024;

/// Of one read, as in a relay.
const READ_BYTES: usize = 16 * 1024;

/// One more than there are sessions, so that nobody waits for ever.
const BACKENDS: usize = 3;

/// Rounds in which each thing is done by chance; then all is done to its end.
const ROUNDS_BY_CHANCE: usize = 2_000;
const ROUNDS_MAX: usize = 200_000;

/// Tries what is described by eight bytes of a seed, two for how many bytes are
/// the first client's, and what both of them send.
///
/// # Panics
/// Where something is not as it must be.
pub(crate) fn run(data: &[u8]) {
    let Some((seed, data)) = data.split_first_chunk::<8>() else { return };
    let Some((first, data)) = data.split_first_chunk::<2>() else { return };
    let first = usize::from(u16::from_le_bytes(*first));
    let data = &data[..data.len().min(STREAM_BYTES_MAX)];
    let streams: [&[u8]; 2] = data.split_at(first.min(data.len())).into();
    let proper = streams.map(|stream| &stream[..manners::proper(stream)]);
    let seed = u64::from_le_bytes(*seed);
    Trial::new(seed, proper, true).goes_to_the_end();
    if proper != streams {
        // Of these only what they leave behind counts.
        Trial::new(seed, streams, false).goes_to_the_end();
    }
}

/// Has a client say one thing, and holds what it is told against what it would
/// be told for another.
///
/// # Panics
/// Where that differs.
#[cfg(test)]
pub(crate) fn compare(said: &[u8], other: &[u8]) {
    let mut trial = Trial::new(1, [said, b""], false);
    trial.goes_on();
    trial.sessions[0].sent = other;
    trial.sessions[0].was_told_what_is_right();
}

/// Sessions, servers, and what is left to chance.
struct Trial<'a> {
    chance: Chance,
    sessions: Vec<Session<'a>>,
    /// Those that no session has.
    free: Vec<Backend>,
    statements: Statements,
    texts: Texts,
    definitions: u64,
    is_proper: bool,
}

/// What the front's names for statements stand for.
type Texts = BTreeMap<Vec<u8>, Vec<u8>>;

/// What the front knows of a server, and the server.
#[derive(Default)]
struct Backend {
    contents: Contents,
    server: Server,
}

struct Session<'a> {
    /// Not sent yet.
    stream: &'a [u8],
    sent: &'a [u8],
    told: BytesMut,
    with: Option<Backend>,
    to_server: Lane,
    to_client: Lane,
    pipeline: Pipeline,
    memory: Memory,
    guard: Guard,
    answers: Answers,
    entry: Entry,
    last_was_error: bool,
    is_over: bool,
}

/// SplitMix64 (Steele, Lea, Flood 2014).
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound.max(1) as u64).unwrap()
    }

    /// So many of these: none, one, a few or all.
    fn some(&mut self, of: usize) -> usize {
        match self.next() % 5 {
            0 => 0,
            1 => of.min(1),
            2 => of.min(7),
            3 => self.below(of + 1),
            _ => of,
        }
    }
}

impl<'a> Trial<'a> {
    fn new(seed: u64, streams: [&'a [u8]; 2], is_proper: bool) -> Self {
        let mut chance = Chance(seed);
        let sessions = streams.map(|stream| Session::new(stream, !chance.next().is_multiple_of(8)));
        Self {
            chance,
            sessions: sessions.into(),
            free: (0..BACKENDS).map(|_| Backend::default()).collect(),
            statements: Statements::default(),
            texts: Texts::default(),
            definitions: 0,
            is_proper,
        }
    }

    fn goes_to_the_end(mut self) {
        self.goes_on();
        if self.is_proper {
            self.sessions.iter().for_each(Session::was_told_what_is_right);
        }
    }

    /// Until nothing moves any more.
    fn goes_on(&mut self) {
        for _ in 0..ROUNDS_BY_CHANCE {
            let index = self.chance.below(self.sessions.len());
            self.round(index, Chance::some);
        }
        let (mut rounds, mut still) = (0, 0);
        while still < self.sessions.len() {
            let moved = self.round(rounds % self.sessions.len(), |_, of| of);
            still = if moved { 0 } else { still + 1 };
            rounds += 1;
            assert!(rounds < ROUNDS_MAX, "it does not come to an end");
        }
    }

    /// What a relay does in one step, of each thing as much as is said; whether
    /// anything moved.
    fn round(&mut self, index: usize, some: fn(&mut Chance, usize) -> usize) -> bool {
        let Self { chance, sessions, free, statements, texts, definitions, is_proper } = self;
        let session = &mut sessions[index];
        if session.is_over {
            return false;
        }
        let mut moved = session.reads_client(|of| some(chance, of));
        moved |= session.connects(free, *definitions, |of| chance.below(of));
        if session.with.is_some() {
            moved |= session.asks_server(statements, |of| some(chance, of));
            moved |= session.hears_server(*is_proper, |of| some(chance, of));
            moved |= session.settles(free, definitions, texts);
        }
        let count = some(chance, session.to_client.outgoing_bytes());
        let told = session.to_client.write(count);
        session.told.extend_from_slice(&told);
        moved || count > 0
    }
}

impl<'a> Session<'a> {
    fn new(stream: &'a [u8], wanders: bool) -> Self {
        let tenant: TenantId = "01890a5d-ac96-774b-bcce-b302099a8057".parse().unwrap();
        let cluster: ClusterName = "c".parse().unwrap();
        let placement = Placement::new(tenant, Isolation::Database, cluster, Epoch::FIRST);
        let caller = Caller {
            tenant,
            login: "acme".into(),
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, 1)),
            is_encrypted: false,
            pool_mode: PoolMode::Transaction,
        };
        Self {
            stream,
            sent: stream,
            told: BytesMut::new(),
            with: None,
            to_server: Lane::default(),
            to_client: Lane::default(),
            pipeline: Pipeline::new(),
            memory: Memory::new(wanders, Arc::default(), Arc::default(), Arc::default()),
            guard: Guard::new(Isolation::Database),
            answers: Answers::new(&"acme".parse().unwrap(), &placement),
            entry: Arc::new(Vitals::default()).enter(&DatabaseTerms::default(), caller),
            last_was_error: false,
            is_over: false,
        }
    }

    fn reads_client(&mut self, some: impl FnOnce(usize) -> usize) -> bool {
        let takes_more = match self.with {
            Some(_) => self.to_server.has_room() && !self.pipeline.is_full(),
            None => self.to_server.awaits_message(),
        };
        let count = if takes_more { some(self.stream.len().min(READ_BYTES)) } else { 0 };
        let (read, rest) = self.stream.split_at(count);
        self.to_server.read(read);
        self.stream = rest;
        count > 0
    }

    fn connects(
        &mut self,
        free: &mut Vec<Backend>,
        definitions: u64,
        below: impl FnOnce(usize) -> usize,
    ) -> bool {
        if self.with.is_some() || self.to_server.next_tag().is_none() {
            return false;
        }
        if self.to_server.next_tag() == Some(tag::TERMINATE) {
            self.is_over = true;
            return true;
        }
        let mut backend = free.swap_remove(below(free.len()));
        if self.memory.wanders() {
            self.turn().begin(&mut backend.contents, definitions);
        }
        self.with = Some(backend);
        true
    }

    fn turn(&mut self) -> Turn<'_> {
        let Self { memory, pipeline, to_server, to_client, .. } = self;
        Turn { memory, pipeline, to_server, to_client }
    }

    fn asks_server(&mut self, statements: &Statements, some: impl FnOnce(usize) -> usize) -> bool {
        let holds = self.turn().holds().unwrap();
        let Some(backend) = &mut self.with else { return false };
        let mut watcher = FromClient {
            pipeline: &mut self.pipeline,
            answers: &self.answers,
            guard: &mut self.guard,
            memory: &mut self.memory,
            contents: &mut backend.contents,
            statements,
            is_held: false,
        };
        if !holds && self.to_server.cut(&mut watcher).is_err() {
            self.is_over = true;
            return true;
        }
        let count = some(self.to_server.outgoing_bytes());
        backend.server.input.extend_from_slice(&self.to_server.write(count));
        count > 0
    }

    fn hears_server(&mut self, is_proper: bool, mut some: impl FnMut(usize) -> usize) -> bool {
        let Some(Backend { server, contents }) = &mut self.with else { return false };
        let steps = some(20);
        let moved = (0..steps).take_while(|_| server.step()).count() > 0;
        assert!(!(is_proper && server.is_lost), "the server does not understand it");
        let count = if self.to_client.has_room() { some(server.out.len().min(READ_BYTES)) } else { 0 };
        self.to_client.read(&server.out.split_to(count));
        let mut watcher = FromServer {
            pipeline: &mut self.pipeline,
            guard: &mut self.guard,
            memory: &mut self.memory,
            contents,
            last_was_error: &mut self.last_was_error,
            vital: &self.entry.vital,
            timed_out: None,
            is_moving: false,
        };
        let cut = self.to_client.cut(&mut watcher);
        assert!(cut.is_ok() || !is_proper, "the server is taken to break the protocol: {cut:?}");
        self.is_over |= server.is_lost || cut.is_err();
        moved || count > 0
    }

    fn settles(&mut self, free: &mut Vec<Backend>, definitions: &mut u64, texts: &mut Texts) -> bool {
        if self.is_over {
            return false;
        }
        match self.turn().end() {
            Ending::No => false,
            Ending::Asked => true,
            Ending::Over => {
                *definitions += u64::from(std::mem::take(&mut self.memory.changed_definitions));
                let Some(backend) = self.with.take() else { return false };
                assert!(backend.server.is_at_rest(), "it is let go and owes something: {:?}", backend.server);
                assert_eq!(backend.server.settings, settings(&backend.contents), "what is set is not known");
                let shared = backend.server.shared();
                assert!(shared.keys().eq(&backend.contents.kept.names()), "it has others: {shared:?}");
                for (name, text) in shared {
                    let first = texts.entry(name).or_insert_with(|| text.clone());
                    assert_eq!(*first, text, "a name stands for two texts");
                }
                free.push(backend);
                true
            }
        }
    }

    /// Compares with a server of its own.
    fn was_told_what_is_right(&self) {
        let (expected, is_at_rest) = alone(self.sent);
        let mut told = self.told.clone();
        let told = messages(&mut told);
        let shared = expected.iter().zip(&told).take_while(|(expected, told)| expected == told).count();
        assert!(
            told == expected,
            "told apart from message {shared} on: {:?}\nexpected: {:?}",
            &told[shared..],
            &expected[shared..]
        );
        let keeps = self.with.is_some() && !self.memory.stays();
        assert!(!(is_at_rest && keeps), "it keeps its backend and nothing is under way: {:?}", self.pipeline);
    }
}

/// What a server of its own says to a client, and whether all is answered then.
/// What is refused fails there too.
fn alone(stream: &[u8]) -> (Vec<(char, Vec<u8>)>, bool) {
    let (mut server, mut guard) = (Server::default(), Guard::new(Isolation::Database));
    let mut rest = BytesMut::from(stream);
    while let Ok(Some(header)) = Header::parse(&rest) {
        let message = rest.split_to(header.message_bytes());
        if !guard.rewrite(header.tag, &message[Header::BYTES..], &mut server.input) {
            server.input.extend_from_slice(&message);
        }
        while server.step() {}
    }
    let told = messages(&mut server.out);
    (told, server.is_at_rest())
}

fn messages(bytes: &mut BytesMut) -> Vec<(char, Vec<u8>)> {
    let read = || read_message(bytes, u32::MAX / 2).unwrap();
    let messages: Vec<Message> = std::iter::from_fn(read).collect();
    assert!(!bytes.has_remaining(), "a message is not whole");
    messages.iter().map(essence).collect()
}

/// What the front takes to be set.
fn settings(contents: &Contents) -> Settings {
    let sql = contents.settings.restore();
    let restores = |text: &[u8]| match Statement::of(text) {
        Statement::Restores(settings) => settings,
        _ => Vec::new(),
    };
    Statement::several(format!("{sql}; ").as_bytes()).into_iter().flat_map(restores).collect()
}
