//! Ends of a stream on servers of the test's own, which can be frozen, killed, and
//! asked for all that is open there.

use insula_domain::Isolation::{Database, Schema};
use insula_sql_store::Connector;
use insula_tenant_cluster::ClusterAccess;
use insula_testkit::TestServer;

use super::{End, Pair, versions};

impl Pair {
    /// Two ends of which one or both are on such servers, the source's before the
    /// target's.
    pub async fn on(servers: [Option<&TestServer>; 2], plain: &str) -> Self {
        let mut pair = Self::new(Schema, Database, &versions(&[plain])).await;
        pair.clean().await;
        let [source, target] = servers;
        if let Some(server) = source {
            put_on(server, &mut pair.source, plain).await;
            pair.writer = server.connect(pair.source.database.name()).await;
        }
        if let Some(server) = target {
            put_on(server, &mut pair.target, plain).await;
        }
        drop(pair.prepare().await);
        pair
    }
}

async fn put_on(server: &TestServer, end: &mut End, plain: &str) {
    let (name, schema) = (end.database.name().to_owned(), &end.place.placement.schema);
    let make = format!("create database {name}");
    server.connect("postgres").await.batch_execute(&make).await.unwrap();
    end.admin = server.connect(&name).await;
    let make = format!(
        "create schema if not exists {schema}; set search_path = {schema}; {plain}; reset search_path"
    );
    end.admin.batch_execute(&make).await.unwrap();
    let connector = Connector::new(&server.url(&name), None).unwrap();
    end.place.access = ClusterAccess::new("test-b".parse().unwrap(), connector);
}
