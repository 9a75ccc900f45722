//! One writable copy at every moment: looks all the time whether PostgreSQL
//! lets a tenant into both ends of its move, on one server or on two, and shows
//! that it would see it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use insula_testkit::{TestServer, connect};
use tokio::task::JoinHandle;
use tokio_postgres::{Client, NoTls};

/// Longer than any wait of a test that passes.
const PATIENCE: Duration = Duration::from_secs(60);

/// What lets a tenant's role (`$1`) into a database (`$2`): whether it may connect,
/// and which versions of the rows say so, the database's own and those of the
/// role's memberships. Every change of an entry makes another version.
const ENTRY: &str = "
select has_database_privilege(r.oid, d.oid, 'connect'),
       d.xmin::text || coalesce((select string_agg(format(' %s %s', m.roleid, m.xmin), '' order by m.roleid)
                                 from pg_auth_members m where m.member = r.oid), '')
from pg_roles r, pg_database d where r.rolname = $1 and d.datname = $2";

/// An end of a move: the server's maintenance database, and the one in which the
/// tenant would be.
#[derive(Debug, Clone)]
pub struct Door {
    pub url: String,
    pub database: &'static str,
}

/// What was seen.
#[derive(Debug, Default)]
pub struct Seen {
    /// How often both doors were looked at.
    pub looks: u64,
    /// How often each was open.
    pub open: [u64; 2],
    /// How often both were.
    pub both: u64,
}

impl Seen {
    /// Both were looked at many times, and never were both open.
    pub fn check(&self, about: &str) {
        assert!(self.looks > 50 && self.open.iter().sum::<u64>() > 20, "{about}: {self:?}");
        assert_eq!(self.both, 0, "{about}: both placements were open");
    }
}

/// Looks until it is stopped.
pub struct Checker {
    stop: Arc<AtomicBool>,
    looks: Arc<AtomicU64>,
    task: JoinHandle<Seen>,
}

impl Checker {
    pub fn start(doors: [Door; 2], role: &str) -> Self {
        let (stop, looks) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, counted, role) = (stop.clone(), looks.clone(), role.to_owned());
        let task = tokio::spawn(async move {
            let mut watched = doors.map(|door| Watched { door, role: role.clone(), client: None });
            let mut seen = Seen::default();
            while !stopped.load(Ordering::SeqCst) {
                look(&mut watched, &mut seen).await;
                counted.store(seen.looks, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(1)).await; // between two looks
            }
            seen
        });
        Self { stop, looks, task }
    }

    /// Waits until it has looked so many times more.
    pub async fn looks_again(&self, times: u64) {
        let (before, begun) = (self.looks.load(Ordering::SeqCst), Instant::now());
        while self.looks.load(Ordering::SeqCst) < before + times {
            assert!(begun.elapsed() < PATIENCE && !self.task.is_finished(), "it does not look");
            tokio::time::sleep(Duration::from_millis(1)).await; // between two looks
        }
    }

    pub async fn stop(self) -> Seen {
        self.stop.store(true, Ordering::SeqCst);
        self.task.await.unwrap()
    }
}

/// A door, and a session to ask about it.
struct Watched {
    door: Door,
    role: String,
    client: Option<Client>,
}

/// How a door is: closed without a word where there is no such role or database.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Entry {
    is_open: bool,
    version: String,
}

impl Watched {
    /// None where the server is away, and lets nobody in.
    async fn look(&mut self) -> Option<Entry> {
        let client = match self.client.take() {
            Some(client) => client,
            None => {
                let (client, connection) = tokio_postgres::connect(&self.door.url, NoTls).await.ok()?;
                // It ends with the client, or with the server.
                tokio::spawn(async move { drop(connection.await) });
                client
            }
        };
        let row = client.query_opt(ENTRY, &[&self.role, &self.door.database]).await.ok()?;
        self.client = Some(client);
        let entry = row.map(|row| Entry { is_open: row.get(0), version: row.get(1) });
        Some(entry.unwrap_or_default())
    }
}

/// The first door before and after the second: where it was open both times, and
/// nobody has touched its entry in between, it was open when the second was looked at.
async fn look([first, second]: &mut [Watched; 2], seen: &mut Seen) {
    let Some(before) = first.look().await else { return };
    let Some(other) = second.look().await else { return };
    seen.looks += 1;
    seen.open[0] += u64::from(before.is_open);
    seen.open[1] += u64::from(other.is_open);
    if before.is_open && other.is_open {
        seen.both += u64::from(first.look().await.as_ref() == Some(&before));
    }
}

/// Two databases on a server, with a role that gets into the second by a group.
async fn server() -> TestServer {
    let server = TestServer::start().await;
    let admin = server.connect("postgres").await;
    for statement in [
        "create database first",
        "create database second",
        "revoke all on database first, second from public",
        "create role somebody; create role members; grant connect on database second to members",
    ] {
        admin.batch_execute(statement).await.unwrap();
    }
    server
}

/// What opens a door, and what closes it, on which server.
struct Hand<'a> {
    server: &'a TestServer,
    database: &'static str,
}

impl Hand<'_> {
    fn door(&self) -> Door {
        Door { url: self.server.url("postgres"), database: self.database }
    }

    async fn opens(&self) {
        let (one, other) = ("grant connect on database first to somebody", "grant members to somebody");
        self.run(if self.database == "first" { one } else { other }).await;
    }

    async fn closes(&self) {
        let (one, other) = ("revoke connect on database first from somebody", "revoke members from somebody");
        self.run(if self.database == "first" { one } else { other }).await;
    }

    async fn run(&self, statement: &str) {
        connect(&self.server.url("postgres")).await.batch_execute(statement).await.unwrap();
    }
}

/// The canary, and its opposite.
#[tokio::test(flavor = "multi_thread")]
async fn two_open_doors_are_seen_and_one_after_the_other_is_not_taken_for_two() {
    let (near, mut far) = tokio::join!(server(), server());
    for other in [&near, &far] {
        let hands = [Hand { server: &near, database: "first" }, Hand { server: other, database: "second" }];
        for [one, another] in [[&hands[0], &hands[1]], [&hands[1], &hands[0]]] {
            one.opens().await;
            let checker = Checker::start([hands[0].door(), hands[1].door()], "somebody");
            for round in 0..20 {
                // A look that has begun before may end behind it.
                let looks = if round % 2 == 0 { 2 } else { 0 };
                one.closes().await;
                another.opens().await;
                checker.looks_again(looks).await;
                another.closes().await;
                one.opens().await;
                checker.looks_again(looks).await;
            }
            let seen = checker.stop().await;
            assert!(seen.both == 0 && seen.open.iter().all(|times| *times > 0), "{seen:?}");
            let checker = Checker::start([hands[0].door(), hands[1].door()], "somebody");
            another.opens().await;
            checker.looks_again(3).await;
            let seen = checker.stop().await;
            assert!(seen.both > 0, "two open doors go unnoticed: {seen:?}");
            one.closes().await;
            another.closes().await;
        }
    }
    // A server that is away lets nobody in, and is looked at again when it is back.
    let hands = [Hand { server: &near, database: "first" }, Hand { server: &far, database: "second" }];
    for hand in &hands {
        hand.opens().await;
    }
    let doors = [hands[0].door(), hands[1].door()];
    far.kill_9().await;
    let checker = Checker::start(doors, "somebody");
    far.start_again().await;
    checker.looks_again(3).await;
    assert!(checker.stop().await.both > 0, "it is not looked at again");
}
