//! What clients cost that are connected and idle.

use std::time::Duration;

use tokio_postgres::{Config, NoTls};

use crate::Target;
use crate::machine::resident_kb;

const CLIENTS: usize = 1_000;

/// How long the system has to give back what was freed.
const SETTLING: Duration = Duration::from_secs(1);

/// Connects clients that have asked one thing each and then wait.
pub async fn measure(target: &Target) {
    let pid = target.pid.unwrap();
    let mut config = Config::new();
    config
        .host(target.host)
        .port(target.port)
        .user(&target.user)
        .password(&target.password)
        .dbname(target.database);
    let before = resident_kb(pid);
    println!("{}\t0\t{before}\t", target.name);
    let mut clients = Vec::with_capacity(CLIENTS);
    for _ in 0..CLIENTS {
        let (client, connection) = config.connect(NoTls).await.unwrap();
        tokio::spawn(connection);
        client.simple_query("select 1").await.unwrap();
        clients.push(client);
    }
    tokio::time::sleep(SETTLING).await;
    let with = resident_kb(pid);
    println!("{}\t{CLIENTS}\t{with}\t{:.1}", target.name, (with - before) as f64 / CLIENTS as f64);
}
