//! Tenants that are moved while they are used: their transactions wait for a
//! moment, and go on where the tenant is then.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use insula_api::PgClientState;
use insula_domain::{DatabaseName, Isolation, Placement, PoolMode, TenantStatus};
use insula_pg_proxy::Ask;
use insula_pg_wire::frontend::{BindNames, Parse};
use insula_route_map::{Hold, HoldReport, Rows};
use insula_testkit::TestDatabase;
use tokio::sync::mpsc::error::TryRecvError;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::{Client, Config, Error, NoTls, SimpleQueryMessage};
use uuid::Uuid;

use crate::cancel::{HELD_UP, holds_up};
use crate::raw::{Raw, letters};
use crate::support::{IN_USE, PATIENCE, Tenant, World, connect, one, words};

const LONG: Duration = PATIENCE;

/// Another cluster, with the same server.
pub const OTHER: &str = "d";

pub const SILO: &str = "create table t (id int primary key, v text not null)";

/// Where tenants share tables, every key has their column.
const POOL: &str = "create table t (tenant_id int not null default 1, id int, v text not null, \
                    primary key (tenant_id, id))";

/// A database in which a tenant may be, with its table.
pub struct Place {
    pub name: String,
    /// Where it is another one than the world's.
    _database: Option<TestDatabase>,
    pub placement: Placement,
    pub admin: Client,
}

impl Place {
    /// The one where the tenant is.
    pub async fn first(world: &World, tenant: &Tenant, table: &str) -> Self {
        let placement = tenant.route.placement.clone().unwrap();
        let admin = world.database.connect().await;
        let schema = &placement.schema;
        admin
            .batch_execute(&format!(
                "set role {}; set search_path = {schema}; {table}; reset role",
                placement.role
            ))
            .await
            .unwrap();
        Self { name: world.database.name().to_owned(), _database: None, placement, admin }
    }

    /// Another one, in a database of its own.
    pub async fn other(world: &World, tenant: &Tenant, isolation: Isolation, table: &str) -> Self {
        let database = TestDatabase::create("place").await;
        let admin = database.connect().await;
        let mut placement = tenant.route.placement.clone().unwrap();
        placement.isolation = isolation;
        placement.cluster = OTHER.parse().unwrap();
        placement.database = DatabaseName::from_stored(database.name().to_owned());
        let (role, schema) = (&placement.role, &placement.schema);
        let sql = format!(
            "create schema {schema} authorization {role};
             alter role {role} in database {} set search_path = {schema};
             revoke connect on database {} from public; grant connect on database {} to {role};
             set role {role}; set search_path = {schema}; {table}; reset role",
            database.name(),
            database.name(),
            database.name(),
        );
        admin.batch_execute(&sql).await.unwrap();
        let server: Config = database.url().parse().unwrap();
        let mut endpoint = world.endpoint("127.0.0.1", server.get_ports()[0], false);
        endpoint.name = OTHER.parse().unwrap();
        world.push(Rows { endpoints: vec![endpoint], ..Rows::default() });
        Self { name: database.name().to_owned(), _database: Some(database), placement, admin }
    }

    pub async fn may_connect(&self, may: bool) {
        let (role, database) = (&self.placement.role, &self.name);
        let verb = if may { "grant connect on database" } else { "revoke connect on database" };
        let preposition = if may { "to" } else { "from" };
        self.admin.batch_execute(&format!("{verb} {database} {preposition} {role}")).await.unwrap();
    }

    /// What its rows are, in order.
    async fn rows(&self) -> Vec<i32> {
        let query = format!("select id from {}.t order by id", self.placement.schema);
        self.admin.query(&query, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
    }
}

impl World {
    pub fn hold(&self, tenant: &mut Tenant, id: u128, within: Duration) {
        let hold = Hold { id: Uuid::from_u128(id), within };
        self.change(tenant, |route| route.hold = Some(hold));
    }

    /// Holds it, and waits until that is so here.
    async fn hold_now(&self, tenant: &mut Tenant, id: u128) {
        self.hold(tenant, id, LONG);
        let held = async {
            while !self.proxy.tenants(&Ask { tenant: Some(tenant.id), limit: 1 }).items[0].held {
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, held).await.expect("it is held");
    }

    fn let_go(&self, tenant: &mut Tenant) {
        self.change(tenant, |route| route.hold = None);
    }

    /// The tenant is there from here on, and not held.
    pub fn move_to(&self, tenant: &mut Tenant, place: &Place) {
        self.change(tenant, |route| {
            let epoch = route.placement.as_ref().unwrap().epoch.next();
            route.placement = Some(Placement { epoch, ..place.placement.clone() });
            route.hold = None;
        });
    }

    async fn report(&self) -> HoldReport {
        let mut reports = self.reports.lock().await;
        timeout(PATIENCE, reports.recv()).await.expect("something is said").unwrap()
    }

    pub async fn until_quiet(&self, id: u128) {
        assert_eq!(self.report().await, HoldReport::Quiet { hold: Uuid::from_u128(id) });
    }

    pub async fn until_released(&self, id: u128) -> (Duration, u32) {
        match self.report().await {
            HoldReport::Released { hold, longest_wait, clients } if hold == Uuid::from_u128(id) => {
                (longest_wait, clients)
            }
            other => panic!("{other:?}"),
        }
    }

    async fn says_nothing(&self) {
        assert_eq!(self.reports.lock().await.try_recv(), Err(TryRecvError::Empty));
    }

    /// Waits until so many sessions wait.
    pub async fn until_waiting(&self, count: usize) {
        let waiting = async {
            loop {
                let clients = self.proxy.clients(&Ask { tenant: None, limit: 1_000 }).items;
                if clients.iter().filter(|client| client.state == PgClientState::Waiting).count() == count {
                    return;
                }
                tokio::task::yield_now().await;
            }
        };
        if timeout(PATIENCE, waiting).await.is_err() {
            panic!("not {count} wait: {:?}", self.proxy.clients(&Ask { tenant: None, limit: 1_000 }).items);
        }
    }

    /// Holds it, and moves it when the front is quiet.
    pub async fn carry(&self, tenant: &mut Tenant, place: &Place, id: u128) {
        self.hold(tenant, id, LONG);
        self.until_quiet(id).await;
        self.move_to(tenant, place);
        self.until_released(id).await;
    }
}

async fn database_of(client: &Client) -> String {
    one(client, "select current_database()::text").await
}

/// A statement that is asked now, on a task of its own. It is one message, with
/// nothing behind its answer.
pub fn asks(client: &Arc<Client>, query: &'static str) -> JoinHandle<Result<String, Error>> {
    let client = Arc::clone(client);
    tokio::spawn(async move {
        let messages = client.simple_query(query).await?;
        let row = messages.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(0),
            _ => None,
        });
        Ok(row.unwrap().to_owned())
    })
}

pub async fn sessions(world: &World, tenant: &Tenant, count: usize) -> Vec<Arc<Client>> {
    join_all((0..count).map(|_| async { Arc::new(world.connect(tenant).await) })).await
}

pub const WHERE: &str = "select current_database()::text";

#[tokio::test]
async fn who_is_held_waits_and_goes_on() {
    let world = World::start().await;
    let (mut acme, other) = (world.tenant("acme").await, world.tenant("other").await);
    let clients = sessions(&world, &acme, 4).await;
    let neighbour = world.connect(&other).await;
    world.hold(&mut acme, 1, LONG);
    world.until_quiet(1).await;
    let held: Vec<_> = clients.iter().map(|client| asks(client, "select 'on'")).collect();
    let config = world.config(&acme);
    let comes = tokio::spawn(async move { connect(&config).await });
    world.until_waiting(5).await;
    assert_eq!(world.backends(&acme, IN_USE).await, 0);
    let tenants = world.proxy.tenants(&Ask { tenant: Some(acme.id), limit: 1 }).items;
    assert!(tenants[0].held);
    assert_eq!(one(&neighbour, "select 'on'").await, "on", "others are not");
    world.says_nothing().await;
    world.let_go(&mut acme);
    for answer in held {
        assert_eq!(answer.await.unwrap().unwrap(), "on");
    }
    comes.await.unwrap().unwrap();
    let (longest, waited) = world.until_released(1).await;
    assert!(waited == 5 && longest > Duration::ZERO && longest < LONG, "{waited} {longest:?}");
    assert!(!world.proxy.tenants(&Ask { tenant: Some(acme.id), limit: 1 }).items[0].held);
    // A tenant of which nobody is here is quiet at once.
    let mut absent = world.tenant("absent").await;
    world.hold(&mut absent, 2, LONG);
    world.until_quiet(2).await;
    world.let_go(&mut absent);
    assert_eq!(world.until_released(2).await.1, 0);
}

#[tokio::test]
async fn a_front_is_quiet_when_the_last_transaction_is_over_and_not_before() {
    let world = World::start().await;
    let mut tenant = world.tenant("acme").await;
    let clients = sessions(&world, &tenant, 4).await;
    let (open, keeping, idle, other) = (&clients[0], &clients[1], &clients[2], &clients[3]);
    idle.batch_execute("create temp table mine (x int); listen x").await.unwrap();
    keeping.batch_execute("create temp table mine (x int); begin").await.unwrap();
    open.batch_execute("begin").await.unwrap();
    world.hold(&mut tenant, 1, LONG);
    let held = [asks(idle, "select 'idle'"), asks(other, "select 'other'")];
    world.until_waiting(2).await;
    // All that they ask within their transactions goes on.
    for client in [open, keeping] {
        assert_eq!(one(client, "select 'within'").await, "within");
    }
    world.says_nothing().await;
    open.batch_execute("commit").await.unwrap();
    assert_eq!(one(keeping, "select 'still'").await, "still");
    world.says_nothing().await;
    keeping.batch_execute("rollback").await.unwrap();
    world.until_quiet(1).await;
    let again = [asks(open, "select 'open'"), asks(keeping, "select 'keeping'")];
    world.until_waiting(4).await;
    assert_eq!(world.backends(&tenant, IN_USE).await, 0);
    world.let_go(&mut tenant);
    for answer in held.into_iter().chain(again) {
        answer.await.unwrap().unwrap();
    }
    assert_eq!(world.until_released(1).await.1, 4);
}

#[tokio::test]
async fn what_is_sent_ahead_of_the_answers_waits_too() {
    let world = World::start().await;
    let mut tenant = world.tenant("acme").await;
    let (mut raw, _) = Raw::session(&world, &tenant).await;
    raw.query("create table t (x int)").await;
    raw.until_ready().await;
    let schema = &tenant.route.placement.as_ref().unwrap().schema;
    let in_the_way = holds_up(&world, &format!("{schema}.t")).await;
    raw.query("select count(*) from t").await;
    world.until_backends(&tenant, HELD_UP, 1).await;
    world.hold_now(&mut tenant, 1).await;
    let watcher = world.connect(&world.tenant("watcher").await).await;
    raw.query("begin; select 1").await;
    raw.query("select 2").await;
    in_the_way.batch_execute("rollback").await.unwrap();
    world.until_quiet(1).await;
    assert_eq!(letters(&raw.until_ready().await), "TDCZ");
    assert_eq!(one(&watcher, "select 'on'").await, "on");
    assert_eq!(world.backends(&tenant, IN_USE).await, 0);
    world.let_go(&mut tenant);
    assert_eq!(letters(&raw.until_ready().await), "CTDCZ");
    assert_eq!(letters(&raw.until_ready().await), "TDCZ");
    // Within a transaction it goes on, an answer at a time.
    world.until_released(1).await;
    world.hold_now(&mut tenant, 2).await;
    raw.query("select 3").await;
    raw.query("commit").await;
    raw.query("select 4").await;
    assert_eq!(letters(&raw.until_ready().await), "TDCZ");
    assert_eq!(letters(&raw.until_ready().await), "CZ");
    world.until_quiet(2).await;
    world.until_waiting(1).await;
    world.let_go(&mut tenant);
    assert_eq!(letters(&raw.until_ready().await), "TDCZ");
}

#[tokio::test]
async fn when_its_time_is_over_all_goes_on_as_before() {
    let world = World::start().await;
    let mut tenant = world.tenant("acme").await;
    let clients = sessions(&world, &tenant, 2).await;
    clients[0].batch_execute("begin").await.unwrap();
    let began = Instant::now();
    // Long enough for the question to come within it.
    let within = Duration::from_secs(2);
    world.hold(&mut tenant, 1, within);
    let held = asks(&clients[1], "select 'on'");
    world.until_waiting(1).await;
    assert_eq!(held.await.unwrap().unwrap(), "on");
    assert!(began.elapsed() + Duration::from_millis(10) >= within);
    clients[0].batch_execute("commit").await.unwrap();
    assert_eq!(world.until_released(1).await.1, 1);
    // The same hold is over for good, whatever else changes; another one is not.
    world.change(&mut tenant, |route| route.max_connections = Some(100));
    assert_eq!(asks(&clients[1], "select 'on'").await.unwrap().unwrap(), "on");
    world.says_nothing().await;
    world.hold(&mut tenant, 2, LONG);
    world.until_quiet(2).await;
    // One takes the place of another.
    let held = asks(&clients[0], "select 'on'");
    world.until_waiting(1).await;
    world.hold(&mut tenant, 3, LONG);
    world.until_quiet(3).await;
    world.let_go(&mut tenant);
    held.await.unwrap().unwrap();
}

#[tokio::test]
async fn sessions_go_where_their_tenant_goes() {
    let world = World::start().await;
    let mut tenant = world.tenant("acme").await;
    let first = Place::first(&world, &tenant, SILO).await;
    let other = Place::other(&world, &tenant, Isolation::Pool, POOL).await;
    let clients = sessions(&world, &tenant, 3).await;
    clients[0].batch_execute("set time zone 'Asia/Tokyo'; set app.mine = 'x'").await.unwrap();
    clients[2].batch_execute("begin").await.unwrap();
    world.hold(&mut tenant, 1, LONG);
    let held = asks(&clients[1], WHERE);
    world.until_waiting(1).await;
    clients[2].batch_execute("commit").await.unwrap();
    world.until_quiet(1).await;
    world.move_to(&mut tenant, &other);
    assert_eq!(held.await.unwrap().unwrap(), other.name);
    world.until_released(1).await;
    for client in &clients {
        assert_eq!(database_of(client).await, other.name);
        assert_eq!(one(client, "show insula.epoch").await, "2");
        assert!(one(client, "show insula.placement").await.contains("pool"));
    }
    assert_eq!(one(&clients[0], "show time zone").await, "Asia/Tokyo");
    assert_eq!(one(&clients[0], "select current_setting('app.mine')").await, "x");
    // Cancels find them there.
    let sleeps = Arc::clone(&clients[0]);
    let token = sleeps.cancel_token();
    let slept = tokio::spawn(async move { sleeps.batch_execute("select pg_sleep(600)").await });
    world.until_backends(&tenant, "wait_event = 'PgSleep'", 1).await;
    token.cancel_query(NoTls).await.unwrap();
    assert_eq!(words(&slept.await.unwrap().unwrap_err()).0, "57014");
    // What idled at the old place is closed.
    let there = format!("datname = '{}'", first.name);
    world.until_backends(&tenant, &there, 0).await;
    world.carry(&mut tenant, &first, 2).await;
    assert_eq!(database_of(&clients[0]).await, first.name);
    assert_eq!(one(&clients[0], "show insula.epoch").await, "3");
}

#[tokio::test]
async fn without_a_hold_a_transaction_ends_where_it_began() {
    let world = World::start().await;
    let mut tenant = world.tenant("acme").await;
    let first = Place::first(&world, &tenant, SILO).await;
    let other = Place::other(&world, &tenant, Isolation::Pool, POOL).await;
    let client = world.connect(&tenant).await;
    client.batch_execute("begin; insert into t values (1, 'x') on conflict (id) do nothing").await.unwrap();
    world.move_to(&mut tenant, &other);
    assert_eq!(one(&world.connect(&tenant).await, WHERE).await, other.name);
    client.batch_execute("insert into t values (2, 'x') on conflict (id) do nothing").await.unwrap();
    client.batch_execute("commit").await.unwrap();
    client.batch_execute("insert into t (id, v) values (3, 'x') on conflict (id) do nothing").await.unwrap();
    assert_eq!((first.rows().await, other.rows().await), (vec![1, 2], vec![3]));
}

const UPSERT: &str =
    "insert into t (id, v) values ($1, $2) on conflict (id) do update set v = t.v || excluded.v returning v";

/// A statement that was made to fit a pool fails elsewhere (42703), and one that
/// was not fails there (42P10): each of them is a canary for the other.
#[tokio::test]
async fn prepared_statements_fit_wherever_they_run() {
    let world = World::start().await;
    let mut tenant = world.tenant("acme").await;
    let first = Place::first(&world, &tenant, SILO).await;
    let other = Place::other(&world, &tenant, Isolation::Pool, POOL).await;
    let client = world.connect(&tenant).await;
    let upsert = client.prepare(UPSERT).await.unwrap();
    let epoch = client.prepare("show insula.epoch").await.unwrap();
    let (mut raw, _) = Raw::session(&world, &tenant).await;
    raw.write(|out| {
        let query = b"insert into t (id, v) values (9, 'x') on conflict (id) do nothing";
        Parse { name: b"", query, parameter_types: b"\0\0" }.put(out).unwrap();
        out.extend_from_slice(b"S\0\0\0\x04");
    })
    .await;
    assert_eq!(letters(&raw.until_ready().await), "1Z");
    for (number, place) in [&other, &first, &other, &first].into_iter().enumerate() {
        let times = number / 2 + 1;
        world.carry(&mut tenant, place, number as u128 + 1).await;
        let row = client.query_one(&upsert, &[&1, &"a"]).await.unwrap();
        assert_eq!(row.get::<_, String>(0), "a".repeat(times));
        let known: String = client.query_one(&epoch, &[]).await.unwrap().get(0);
        assert_eq!(known, (number + 2).to_string());
        // The unnamed one, which was sent once.
        raw.write(|out| {
            BindNames { portal: b"", statement: b"", rest: b"\0\0\0\0\0\0" }.put(0, out).unwrap();
            out.extend_from_slice(b"E\0\0\0\x09\0\0\0\0\0S\0\0\0\x04");
        })
        .await;
        assert_eq!(letters(&raw.until_ready().await), "2CZ", "at {number}");
        assert_eq!(place.rows().await, [1, 9]);
    }
    // The canaries themselves.
    let text = "insert into t (id, v) values (1, 'x') on conflict (tenant_id, id) do nothing";
    assert_eq!(words(&client.batch_execute(text).await.unwrap_err()).0, "42703");
    let schema = &other.placement.schema;
    let plain = format!("insert into {schema}.t (id, v) values (1, 'x') on conflict (id) do nothing");
    assert_eq!(words(&other.admin.batch_execute(&plain).await.unwrap_err()).0, "42P10");
}

#[tokio::test]
async fn what_cannot_move_along_is_told_so() {
    let world = World::start().await;
    let mut tenant = world.tenant("acme").await;
    let first = Place::first(&world, &tenant, SILO).await;
    let other = Place::other(&world, &tenant, Isolation::Pool, POOL).await;
    let sharing = world.connect(&tenant).await;
    world.change_login(&mut tenant, |login| login.pool_mode = Some(PoolMode::Session));
    let keeping = Arc::new(world.connect(&tenant).await);
    let ended = Arc::new(world.connect(&tenant).await);
    world.change_login(&mut tenant, |login| login.pool_mode = None);
    let clients = sessions(&world, &tenant, 4).await;
    clients[0].batch_execute("listen x").await.unwrap();
    clients[1].batch_execute("create temp table mine (x int)").await.unwrap();
    clients[2].batch_execute("prepare p as select 1").await.unwrap();
    clients[3].batch_execute("create temp table mine (x int)").await.unwrap();
    world.hold(&mut tenant, 1, LONG);
    world.until_quiet(1).await;
    // Two are ended by the server before the move is known, one of which has
    // asked something.
    let asked = asks(&ended, "select 'never'");
    world.until_waiting(1).await;
    let sql = format!(
        "select pg_terminate_backend(pid, 20000) from pg_stat_activity where datname = '{}'",
        first.name
    );
    let role = &first.placement.role;
    first
        .admin
        .execute(&format!("{sql} and usename = '{role}' and query like 'create temp%'"), &[])
        .await
        .unwrap();
    let others = [&clients[0], &clients[2], &keeping].map(|client| asks(client, "select 'never'"));
    world.until_waiting(4).await;
    world.move_to(&mut tenant, &other);
    for answer in [asked].into_iter().chain(others) {
        let (sqlstate, message, hint) = words(&answer.await.unwrap().unwrap_err());
        assert_eq!((sqlstate.as_str(), hint.as_str()), ("57P01", "insula: unavailable"));
        assert!(message.contains("moved"), "{message}");
    }
    for client in [&clients[1], &clients[3]] {
        assert!(client.batch_execute("select 1").await.unwrap_err().is_closed());
    }
    assert_eq!(database_of(&sharing).await, other.name);
}

#[tokio::test]
async fn a_closed_place_is_waited_for() {
    let world = World::start().await;
    let mut tenant = world.tenant("acme").await;
    let first = Place::first(&world, &tenant, SILO).await;
    let other = Place::other(&world, &tenant, Isolation::Database, SILO).await;
    let clients = sessions(&world, &tenant, 8).await;
    other.may_connect(false).await;
    world.carry(&mut tenant, &other, 1).await;
    let config = world.config(&tenant);
    let comes = tokio::spawn(async move { connect(&config).await });
    let waiting: Vec<_> = clients.iter().map(|client| asks(client, WHERE)).collect();
    world.until_waiting(9).await;
    other.may_connect(true).await;
    for answer in waiting {
        assert_eq!(answer.await.unwrap().unwrap(), other.name);
    }
    comes.await.unwrap().unwrap();
    // Nobody waits there who is led elsewhere.
    other.may_connect(false).await;
    let sql = "select pg_terminate_backend(pid, 20000) from pg_stat_activity
               where datname = current_database() and pid <> pg_backend_pid() and usename <> current_user";
    other.admin.execute(sql, &[]).await.unwrap();
    let waiting: Vec<_> = clients.iter().map(|client| asks(client, WHERE)).collect();
    world.until_waiting(8).await;
    world.move_to(&mut tenant, &first);
    for answer in waiting {
        assert_eq!(answer.await.unwrap().unwrap(), first.name);
    }
    // Who may not be served does not wait.
    world.move_to(&mut tenant, &other);
    let waits = asks(&clients[0], WHERE);
    let config = world.config(&tenant);
    let comes = tokio::spawn(async move { connect(&config).await.map(drop) });
    world.until_waiting(2).await;
    world.change(&mut tenant, |route| route.status = TenantStatus::Suspended);
    for refused in [waits.await.unwrap().map(drop), comes.await.unwrap()] {
        assert!(words(&refused.unwrap_err()).2.contains("tenant_suspended"));
    }
}

/// What one client has been told was done.
async fn works(client: Client, number: i32, stop: Arc<AtomicBool>) -> Vec<i32> {
    let insert =
        client.prepare("insert into t (id, v) values ($1, 'x') on conflict (id) do nothing").await.unwrap();
    let mut done = Vec::new();
    for round in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let id = number * 1_000_000 + round;
        match round % 3 {
            0 => drop(client.execute(&insert, &[&id]).await.unwrap()),
            1 => {
                let sql =
                    format!("begin; insert into t (id, v) values ({id}, 'x') on conflict (id) do nothing");
                client.batch_execute(&sql).await.unwrap();
                client.batch_execute("commit").await.unwrap();
            }
            _ => {
                let sql = format!("insert into t (id, v) values ({id}, 'x') on conflict (id) do nothing");
                client.batch_execute(&sql).await.unwrap();
            }
        }
        done.push(id);
    }
    done
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_client_notices_that_its_tenant_moves_under_load() {
    const MOVES: usize = 10;
    let world = World::start().await;
    let mut tenant = world.tenant("acme").await;
    let first = Place::first(&world, &tenant, SILO).await;
    let other = Place::other(&world, &tenant, Isolation::Pool, POOL).await;
    let stop = Arc::new(AtomicBool::new(false));
    let workers: Vec<_> = join_all((0..8).map(|_| world.connect(&tenant)))
        .await
        .into_iter()
        .zip(0..)
        .map(|(client, number)| tokio::spawn(works(client, number, Arc::clone(&stop))))
        .collect();
    let (mut here, mut there) = (&first, &other);
    let (mut longest, mut pauses) = (Duration::ZERO, Vec::new());
    for id in 1..=MOVES {
        let rows = here.rows().await.len();
        timeout(PATIENCE, async { while here.rows().await.len() < rows + 50 {} }).await.expect("they work");
        let began = Instant::now();
        world.hold(&mut tenant, id as u128, LONG);
        world.until_quiet(id as u128).await;
        pauses.push(began.elapsed());
        let left = here.rows().await;
        here.may_connect(false).await;
        world.move_to(&mut tenant, there);
        let (waited, _) = world.until_released(id as u128).await;
        longest = longest.max(waited);
        // Nothing is written any more where it was.
        let rows = there.rows().await.len();
        timeout(PATIENCE, async { while there.rows().await.len() < rows + 50 {} }).await.expect("they go on");
        assert_eq!(here.rows().await, left);
        here.may_connect(true).await;
        std::mem::swap(&mut here, &mut there);
    }
    stop.store(true, Ordering::Relaxed);
    let mut done = join_all(workers).await.into_iter().flat_map(Result::unwrap).collect::<Vec<_>>();
    done.sort_unstable();
    let mut rows = [first.rows().await, other.rows().await].concat();
    rows.sort_unstable();
    assert_eq!(rows, done, "each is there, and none twice");
    println!("quiet after {pauses:?}; waited {longest:?} at the most; {} transactions", rows.len());
}
