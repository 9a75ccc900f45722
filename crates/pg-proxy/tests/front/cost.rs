//! What the front costs, for the decision record: the same statements straight
//! to the server and through the front, over TCP
//! and by the server's socket. Run by hand:
//! `cargo test -p insula-pg-proxy --test front cost -- --ignored --nocapture`.

use std::time::{Duration, Instant};

use insula_domain::RoleName;
use insula_route_map::Rows;
use insula_testkit::postgres;
use tokio_postgres::{Client, Config};

use crate::support::{World, connect};

const ROUNDS: usize = 2000;
const CONNECTS: usize = 100;

fn median(mut times: Vec<Duration>) -> (Duration, Duration) {
    times.sort_unstable();
    (times[times.len() / 2], times[times.len() * 99 / 100])
}

async fn round_trips(client: &Client, extended: bool) -> Vec<Duration> {
    let statement = client.prepare("select 1").await.unwrap();
    let mut times = Vec::with_capacity(ROUNDS);
    for _ in 0..ROUNDS {
        let began = Instant::now();
        if extended {
            client.query(&statement, &[]).await.unwrap();
        } else {
            client.simple_query("select 1").await.unwrap();
        }
        times.push(began.elapsed());
    }
    times
}

async fn connects(config: &Config) -> Vec<Duration> {
    let mut times = Vec::with_capacity(CONNECTS);
    for _ in 0..CONNECTS {
        let began = Instant::now();
        drop(connect(config).await.unwrap());
        times.push(began.elapsed());
    }
    times
}

async fn megabytes_in_a_second(client: &Client) -> f64 {
    const MEGABYTES: usize = 200;
    let query = format!("select repeat('x', 8000) from generate_series(1, {})", MEGABYTES * 125);
    let began = Instant::now();
    client.simple_query(&query).await.unwrap();
    MEGABYTES as f64 / began.elapsed().as_secs_f64()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn cost_of_the_front() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let role = RoleName::of_tenant(tenant.id);
    let password = world.keys.role_password(tenant.id, false, world.keys.current_generation()).unwrap();
    let straight: Config =
        postgres().await.url_as(role.as_str(), password.expose(), world.database.name()).parse().unwrap();
    let through = world.config(&tenant);
    let url = postgres().await.url("postgres");
    for name in ["straight", "through the front", "through the front, by the socket"] {
        let config = if name == "straight" { &straight } else { &through };
        if name.ends_with("socket") {
            let folder = postgres().await.socket_folder().await;
            let port = url.parse::<Config>().unwrap().get_ports()[0];
            let endpoint = world.endpoint(&folder, port, false);
            world.push(Rows { endpoints: vec![endpoint], ..Rows::default() });
        }
        let client = connect(config).await.unwrap();
        round_trips(&client, true).await;
        let (simple, extended) = (round_trips(&client, false).await, round_trips(&client, true).await);
        println!("{name}: simple {:?}, extended {:?} (p50, p99)", median(simple), median(extended));
        println!("{name}: {:.0} MB/s of rows", megabytes_in_a_second(&client).await);
        println!("{name}: connect {:?} (p50, p99)", median(connects(config).await));
    }
}
