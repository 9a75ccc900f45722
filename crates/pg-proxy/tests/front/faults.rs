//! What happens to clients while a backend, the whole server, or the network
//! between the front and it fails: more of them than there are backends, of
//! several tenants. Whatever breaks, nobody gets another's answer, no commit is
//! told of that is not there, and the front goes on by itself.

use std::net::SocketAddr;
use std::time::Duration;

use insula_domain::RoleName;
use insula_pg_proxy::PgProxyConfig;
use insula_route_map::Rows;
use insula_testkit::{
    Complaint, Crowd, LEDGER, Member, Row, Story, Temper, TestServer, complaints, ledger_rows,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_postgres::NoTls;

use crate::support::{PATIENCE, Tenant, World};

/// More clients than backends, of each tenant and of all.
const CLIENTS_OF_A_TENANT: usize = 9;
const BACKENDS: u32 = 6;

/// Until all are served again after a fault: the server's own recovery, and a
/// wait for a backend that was opened in vain.
const RECOVERY: Duration = Duration::from_secs(80);

/// A stall that outlasts what a backend may take to be opened.
const STALL: Duration = Duration::from_secs(5);

/// A front before a server of its own, with a crowd of clients.
struct Scene {
    world: World,
    server: TestServer,
    tenants: Vec<Tenant>,
    crowd: Crowd,
}

impl Scene {
    /// The front finds the server where it is told.
    async fn begin(at: impl AsyncFnOnce(&TestServer) -> SocketAddr) -> Self {
        let config = PgProxyConfig { backends_per_cluster_max: BACKENDS, ..PgProxyConfig::default() };
        let world = World::start_with(config, None).await;
        let server = TestServer::start().await;
        let address = at(&server).await;
        let endpoint = world.endpoint(&address.ip().to_string(), address.port(), false);
        world.push(Rows { endpoints: vec![endpoint], ..Rows::default() });
        let admin = server.connect("postgres").await;
        let (mut tenants, mut members) = (Vec::new(), Vec::new());
        for slug in ["acme", "globex", "initech"] {
            let tenant = world.tenant_in(slug, None, &admin, "postgres").await;
            let role = RoleName::of_tenant(tenant.id).as_str().to_owned();
            world.connect(&tenant).await.batch_execute(LEDGER).await.unwrap();
            members.extend((0..CLIENTS_OF_A_TENANT).map(|number| Member {
                config: world.config(&tenant),
                tenant: slug.to_owned(),
                role: role.clone(),
                temper: Temper::nth(number),
            }));
            tenants.push(tenant);
        }
        let crowd = Crowd::start(members);
        crowd.until_each_commits(2, PATIENCE).await;
        Self { world, server, tenants, crowd }
    }

    /// What the clients tell, and what is there.
    async fn end(self) -> (Vec<Story>, Vec<Row>, TestServer) {
        let Self { server, tenants, crowd, world } = self;
        // By itself, without a new front: each is served again.
        crowd.until_each_commits(8, RECOVERY).await;
        let stories = crowd.stop().await;
        assert!(!world.served.is_finished());
        let admin = server.connect("postgres").await;
        let mut rows = Vec::new();
        for tenant in &tenants {
            let schema = &tenant.route.placement.as_ref().unwrap().schema;
            let slug = tenant.route.slug.as_str();
            rows.extend(ledger_rows(&admin, slug, &format!("{schema}.ledger")).await.unwrap());
        }
        // The clients have asked enough for this to mean something.
        let acknowledged: usize = stories.iter().map(|story| story.acknowledged.len()).sum();
        assert!(acknowledged > 200, "{acknowledged}");
        (stories, rows, server)
    }

    async fn end_well(self) {
        let (stories, rows, _) = self.end().await;
        let complaints: Vec<_> = complaints(&stories, &rows).iter().map(ToString::to_string).collect();
        assert!(complaints.is_empty(), "{complaints:#?}");
    }
}

async fn straight(server: &TestServer) -> SocketAddr {
    ([127, 0, 0, 1], server.port()).into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backends_are_killed_under_a_crowd() {
    let scene = Scene::begin(straight).await;
    for round in 0..4 {
        scene.crowd.until_each_commits(1, RECOVERY).await;
        let which = if round % 2 == 0 { "state <> 'idle'" } else { "true" };
        let killed = async { while !kill_one(&scene.server, which).await {} };
        timeout(PATIENCE, killed).await.expect("there is a backend to be killed");
    }
    scene.end_well().await;
}

/// Kills a backend of a tenant; false where there is none, or it has ended just
/// now, or the server still recovers from the last one.
async fn kill_one(server: &TestServer, which: &str) -> bool {
    let Ok((admin, connection)) = tokio_postgres::connect(&server.url("postgres"), NoTls).await else {
        return false;
    };
    tokio::spawn(async move { drop(connection.await) });
    let query = format!(
        "select pid from pg_stat_activity where usename like 'tenant\\_%' and {which} order by random() limit 1"
    );
    match admin.query_opt(&query, &[]).await {
        Ok(Some(row)) => kill(Pid::from_raw(row.get(0)), Signal::SIGKILL).is_ok(),
        _ => false,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_is_killed_under_a_crowd() {
    let mut scene = Scene::begin(straight).await;
    for _ in 0..2 {
        scene.server.kill_9().await;
        scene.server.start_again().await;
        scene.crowd.until_each_commits(1, RECOVERY).await;
    }
    scene.end_well().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_network_stalls_under_a_crowd() {
    let (network, passes) = watch::channel(Network::default());
    let scene = Scene::begin(async |server| forward(straight(server).await, passes).await).await;
    // Once it goes on with what was on its way, once all of it is lost.
    for cuts in [0, 1] {
        network.send_modify(|network| network.stalls = true);
        tokio::time::sleep(STALL).await; // the stall itself
        network.send_replace(Network { stalls: false, cuts });
        scene.crowd.until_each_commits(2, RECOVERY).await;
    }
    scene.end_well().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_and_a_second_commit_would_be_found_out() {
    // The canary: rows are taken away and doubled behind the clients' backs.
    let scene = Scene::begin(straight).await;
    let schema = scene.tenants[0].route.placement.as_ref().unwrap().schema.clone();
    let (stories, mut rows, server) = scene.end().await;
    let admin = server.connect("postgres").await;
    assert_eq!(complaints(&stories, &rows), []);
    let number = *stories[0].acknowledged.last().unwrap();
    let (client, table) = (stories[0].client, format!("{schema}.ledger"));
    let forge = |sql: String| {
        let (admin, table) = (&admin, &table);
        async move {
            admin.execute(&sql, &[&client, &number]).await.unwrap();
            ledger_rows(admin, "acme", table).await.unwrap()
        }
    };
    let others: Vec<_> = rows.drain(..).filter(|row| row.tenant != "acme").collect();
    let insert = format!("insert into {table} (client, number, part) values ($1, $2, 1), ($1, $2, 2)");
    let twice = [forge(insert).await, others.clone()].concat();
    assert!(matches!(complaints(&stories, &twice)[..], [Complaint::Twice(_), Complaint::Twice(_)]));
    let delete = format!("delete from {table} where client = $1 and number = $2");
    let lost = [forge(delete).await, others].concat();
    assert!(matches!(complaints(&stories, &lost)[..], [Complaint::Lost(_)]));
}

/// What a network does.
#[derive(Debug, Clone, Copy, Default)]
struct Network {
    stalls: bool,
    /// How often all that was on its way was lost, and every connection with it.
    cuts: u32,
}

/// A network before a server.
async fn forward(server: SocketAddr, network: watch::Receiver<Network>) -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            let (network, mut cut) = (network.clone(), network.clone());
            let cuts = network.borrow().cuts;
            tokio::spawn(async move {
                let Ok(far) = TcpStream::connect(server).await else { return };
                let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
                tokio::select! {
                    biased;
                    _ = cut.wait_for(|network| network.cuts != cuts) => {}
                    () = pass_on(near_in, far_out, network.clone()) => {}
                    () = pass_on(far_in, near_out, network.clone()) => {}
                }
            });
        }
    });
    address
}

/// Passes on what comes, as the network lets it, until either side ends.
async fn pass_on(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut network: watch::Receiver<Network>) {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let count = from.read(&mut buffer).await.unwrap_or(0);
        let passes = network.wait_for(|network| !network.stalls).await.is_ok();
        if count == 0 || !passes || to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}
