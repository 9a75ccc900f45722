//! Connections that are begun before a tenant is moved: its first transactions at
//! the target use them, and whatever becomes of the move or of them, nobody
//! notices.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use futures_util::future::join_all;
use insula_domain::{Isolation, Placement};
use insula_pg_proxy::PgProxyConfig;
use insula_route_map::{NextPlace, Rows};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;
use tokio::time::timeout;
use tokio_postgres::{Client, Config};

use crate::moves::{OTHER, Place, SILO, WHERE, asks, sessions};
use crate::support::{PATIENCE, Tenant, World, one};

/// Sessions of the tenant, each of which has had a backend at the same time.
const SESSIONS: usize = 2;

/// What a server says at the least until it waits for the proof: the ways to
/// prove oneself (24 bytes), and its first message, with a nonce of both and a salt.
const CHALLENGE_BYTES: usize = 24 + 60;

/// What stands between the front and a server, and sees connections come and go.
struct Between {
    port: u16,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    accepted: AtomicUsize,
    /// Those whose server has asked for the proof.
    begun: AtomicUsize,
    /// Those that the front has ended.
    ended: AtomicUsize,
    running: Mutex<Vec<AbortHandle>>,
}

impl Between {
    async fn before(port: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let (own, counts) = (listener.local_addr().unwrap().port(), Arc::<Counts>::default());
        let seen = Arc::clone(&counts);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
                seen.accepted.fetch_add(1, Ordering::SeqCst);
                let running = tokio::spawn(relay(client, server, Arc::clone(&seen))).abort_handle();
                seen.running.lock().unwrap().push(running);
            }
        });
        Self { port: own, counts }
    }

    fn accepted(&self) -> usize {
        self.counts.accepted.load(Ordering::SeqCst)
    }

    /// Waits until so many were begun.
    async fn until_begun(&self, count: usize) {
        self.until(|counts| counts.begun.load(Ordering::SeqCst) == count).await;
    }

    /// Waits until the front has ended so many.
    async fn until_ended(&self, count: usize) {
        self.until(|counts| counts.ended.load(Ordering::SeqCst) == count).await;
    }

    async fn until(&self, is_so: impl Fn(&Counts) -> bool) {
        let waiting = async {
            while !is_so(&self.counts) {
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, waiting).await.expect("it comes to that");
    }

    /// Ends all connections that there are, without a word.
    fn cut(&self) {
        self.counts.running.lock().unwrap().drain(..).for_each(|running| running.abort());
    }
}

async fn relay(mut client: TcpStream, mut server: TcpStream, counts: Arc<Counts>) {
    let (mut from_client, mut from_server) = ([0; 4096], [0; 4096]);
    let (mut said, mut is_begun) = (0, false);
    loop {
        tokio::select! {
            read = client.read(&mut from_client) => {
                let read = read.unwrap_or(0);
                if read == 0 {
                    counts.ended.fetch_add(1, Ordering::SeqCst);
                    return;
                }
                server.write_all(&from_client[..read]).await.unwrap();
            }
            read = server.read(&mut from_server) => {
                let read = read.unwrap_or(0);
                if read == 0 || client.write_all(&from_server[..read]).await.is_err() {
                    return;
                }
                said += read;
                if said > CHALLENGE_BYTES && !is_begun {
                    is_begun = true;
                    counts.begun.fetch_add(1, Ordering::SeqCst);
                }
            }
        }
    }
}

/// A tenant with sessions at its first place, and another place behind something
/// that counts.
struct Scene {
    world: World,
    tenant: Tenant,
    other: Place,
    between: Between,
    clients: Vec<Arc<Client>>,
}

impl Scene {
    async fn new(isolation: Isolation) -> Self {
        // Room for more than two at once, whatever the machine.
        let config = PgProxyConfig { backends_per_cluster_max: 40, ..PgProxyConfig::default() };
        let world = World::start_with(config, None).await;
        let tenant = world.tenant("acme").await;
        Place::first(&world, &tenant, SILO).await;
        let other = Place::other(&world, &tenant, isolation, SILO).await;
        let server: Config = insula_testkit::postgres().await.url("postgres").parse().unwrap();
        let between = Between::before(server.get_ports()[0]).await;
        let mut endpoint = world.endpoint("127.0.0.1", between.port, false);
        endpoint.name = OTHER.parse().unwrap();
        world.push(Rows { endpoints: vec![endpoint], ..Rows::default() });
        let clients = sessions(&world, &tenant, SESSIONS).await;
        all(&clients, "begin").await;
        all(&clients, "commit").await;
        Self { world, tenant, other, between, clients }
    }

    fn is_going(&mut self, goes: bool) {
        let Placement { cluster, database, isolation, .. } = self.other.placement.clone();
        self.world.change(&mut self.tenant, |route| {
            route.is_narrowed = goes;
            route.goes_to = goes.then_some(NextPlace { cluster, database, isolation });
        });
    }

    /// Announced, and begun.
    async fn is_going_now(&mut self) {
        self.is_going(true);
        self.between.until_begun(SESSIONS).await;
    }

    /// Held, and moved to where it was to go.
    async fn carry(&mut self) {
        self.world.carry(&mut self.tenant, &self.other, 1).await;
    }

    /// Where all sessions are, at the same time.
    async fn places(&self) -> Vec<String> {
        all(&self.clients, "begin").await;
        let places = join_all(self.clients.iter().map(|client| one(client, WHERE))).await;
        all(&self.clients, "commit").await;
        places
    }

    async fn sessions_there(&self) -> i64 {
        let role = &self.other.placement.role;
        let query = format!(
            "select count(*) from pg_stat_activity where datname = current_database() and usename = '{role}'"
        );
        self.other.admin.query_one(&query, &[]).await.unwrap().get(0)
    }
}

async fn all(clients: &[Arc<Client>], sql: &str) {
    join_all(clients.iter().map(|client| client.batch_execute(sql)))
        .await
        .into_iter()
        .for_each(|done| done.unwrap());
}

#[tokio::test]
async fn the_first_transactions_use_what_was_begun_before() {
    for isolation in [Isolation::Database, Isolation::Schema] {
        let mut scene = Scene::new(isolation).await;
        assert_eq!(scene.between.accepted(), 0);
        scene.is_going_now().await;
        assert_eq!(scene.sessions_there().await, 0, "the server has let nobody in");
        scene.carry().await;
        assert_eq!(scene.places().await, vec![scene.other.name.clone(); SESSIONS]);
        assert_eq!(scene.between.accepted(), SESSIONS, "none besides");
        assert_eq!(scene.sessions_there().await, SESSIONS as i64);
    }
}

#[tokio::test]
async fn what_is_not_wanted_any_more_is_ended() {
    let mut scene = Scene::new(Isolation::Database).await;
    scene.is_going_now().await;
    scene.is_going(false);
    scene.between.until_ended(SESSIONS).await;
    // Another try begins others.
    scene.is_going(true);
    scene.between.until_begun(2 * SESSIONS).await;
    scene.is_going(false);
    scene.between.until_ended(2 * SESSIONS).await;
    // Without a word before it a move takes connections of its own.
    scene.carry().await;
    assert_eq!(scene.places().await, vec![scene.other.name.clone(); SESSIONS]);
    assert_eq!(scene.between.accepted(), 3 * SESSIONS);
}

#[tokio::test]
async fn what_has_ended_meanwhile_is_begun_anew() {
    let mut scene = Scene::new(Isolation::Database).await;
    scene.is_going_now().await;
    scene.between.cut();
    scene.carry().await;
    assert_eq!(scene.places().await, vec![scene.other.name.clone(); SESSIONS]);
    assert_eq!(scene.between.accepted(), 2 * SESSIONS);
}

#[tokio::test]
async fn a_tenant_that_goes_elsewhere_than_was_said_is_there() {
    let mut scene = Scene::new(Isolation::Database).await;
    // On the same cluster, in another database.
    let third = Place::other(&scene.world, &scene.tenant, Isolation::Database, SILO).await;
    let mut endpoint = scene.world.endpoint("127.0.0.1", scene.between.port, false);
    endpoint.name = OTHER.parse().unwrap();
    scene.world.push(Rows { endpoints: vec![endpoint], ..Rows::default() });
    scene.is_going_now().await;
    scene.world.carry(&mut scene.tenant, &third, 1).await;
    assert_eq!(scene.places().await, vec![third.name.clone(); SESSIONS]);
    assert_eq!((scene.sessions_there().await, scene.between.accepted()), (0, 2 * SESSIONS));
    scene.world.change(&mut scene.tenant, |route| route.goes_to = None);
    scene.between.until_ended(SESSIONS).await;
}

#[tokio::test]
async fn a_place_that_is_still_closed_lets_nobody_in() {
    let mut scene = Scene::new(Isolation::Database).await;
    scene.other.may_connect(false).await;
    scene.is_going_now().await;
    scene.carry().await;
    let waiting: Vec<_> = scene.clients.iter().map(|client| asks(client, WHERE)).collect();
    scene.world.until_waiting(SESSIONS).await;
    assert_eq!(scene.sessions_there().await, 0);
    scene.other.may_connect(true).await;
    for answer in waiting {
        assert_eq!(answer.await.unwrap().unwrap(), scene.other.name);
    }
}
