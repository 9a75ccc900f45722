//! A front in a process of its own, whose memory can be measured: the test
//! program starts itself again for it.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};

use insula_domain::{Isolation, PoolMode};
use insula_pg_proxy::PgProxyConfig;
use tokio::net::TcpStream;
use tokio_postgres::Client;

use crate::raw::Raw;
use crate::support::World;

/// Tells a process that it is to be the front.
const FRONT: &str = "INSULA_TEST_FRONT";

/// Before what it says, among what a test program says by itself.
const SAYS: &str = "front: ";

/// The tenants that it has, and how each is taken to be isolated.
const TENANTS: [(&str, Isolation); 2] = [("acme", Isolation::Database), ("globex", Isolation::Pool)];

/// A front in a process of its own, which ends with this.
pub struct Apart {
    process: Child,
    told: serde_json::Value,
}

impl Apart {
    pub fn start() -> Self {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "apart::a_front_for_other_tests", "--ignored", "--nocapture"])
            .env(FRONT, "")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        // The runner's own words may stand before it on the line.
        let told = lines.find_map(|line| Some(line.ok()?.split_once(SAYS)?.1.to_owned()));
        let told = serde_json::from_str(&told.expect("the front says where it is")).unwrap();
        // What else it prints must not fill the pipe.
        std::thread::spawn(move || lines.for_each(drop));
        Self { process, told }
    }

    fn word(&self, name: &str) -> &str {
        self.told[name].as_str().unwrap()
    }

    /// A session as a tenant.
    pub async fn session(&self, slug: &str) -> Raw {
        let stream = TcpStream::connect(self.word("address")).await.unwrap();
        let mut raw = Raw::new(stream);
        raw.start(&[("user", slug), ("database", "app")]).await;
        raw.come_in(self.word(slug)).await;
        raw
    }

    /// A superuser's session in the tenants' database, past the front.
    pub async fn admin(&self) -> Client {
        insula_testkit::connect(self.word("database")).await
    }

    /// The memory that it has now, and what is had from here on counts for
    /// [`Self::peak_kib`].
    pub fn resident_kib(&self) -> u64 {
        // Takes the peak back to what there is now (`man 5 proc`).
        std::fs::write(format!("/proc/{}/clear_refs", self.process.id()), "5").unwrap();
        self.status_kib("VmRSS:")
    }

    /// The most memory that it has had since.
    pub fn peak_kib(&self) -> u64 {
        self.status_kib("VmHWM:")
    }

    fn status_kib(&self, name: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }
}

impl Drop for Apart {
    /// It ends in order with its standard input, so that its database goes too.
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }
}

#[tokio::test]
#[ignore = "other tests run it as a process"]
async fn a_front_for_other_tests() {
    if std::env::var_os(FRONT).is_none() {
        return;
    }
    let config = PgProxyConfig { pool_mode: PoolMode::Transaction, ..PgProxyConfig::default() };
    let world = World::start_with(config, None).await;
    let mut says =
        serde_json::json!({ "address": world.address.to_string(), "database": world.database.url() });
    for (slug, isolation) in TENANTS {
        let mut tenant = world.tenant(slug).await;
        world.change(&mut tenant, |route| route.placement.as_mut().unwrap().isolation = isolation);
        says[slug] = tenant.secret.clone().into();
    }
    println!("{SAYS}{says}");
    // Until nobody holds the other end.
    let ended = tokio::task::spawn_blocking(|| std::io::stdin().read(&mut [0]));
    ended.await.unwrap().unwrap();
}
