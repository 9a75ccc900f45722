//! The ways into a tenant's server: the front's, by a Unix socket or from an
//! address of its own, and those of everybody else, which are closed.

use std::time::Duration;

use futures_util::SinkExt;
use insula_credentials::{ScramVerifier, Secret};
use insula_domain::{OsEntropy, RoleName};
use insula_route_map::Rows;
use insula_testkit::{TcpAccess, TestServer};
use tokio::net::TcpSocket;
use tokio_postgres::config::SslMode;
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::{Client, Config, Error, NoTls};

use crate::support::{PATIENCE, Tenant, World, connect, one, pair, refused};
use crate::tls::{Certificate, certificate, client_tls, tls_server};

/// A server with the tenant's role and database, closed as ours are.
async fn server_of(world: &World, tenant: &Tenant, tcp: TcpAccess) -> TestServer {
    let server = TestServer::start_with(|spec| spec.tcp = tcp).await;
    let admin = server.connect("postgres").await;
    let placement = tenant.route.placement.as_ref().unwrap();
    admin.batch_execute(&format!("create role {} login", placement.role)).await.unwrap();
    set_password(world, tenant, &admin).await;
    admin
        .batch_execute(&format!("create database {} owner {}", placement.database, placement.role))
        .await
        .unwrap();
    server
}

fn password(world: &World, tenant: &Tenant) -> Secret {
    world.keys.role_password(tenant.id, false, world.keys.current_generation()).unwrap()
}

/// Gives the role the password that the front presents, as Insula does.
async fn set_password(world: &World, tenant: &Tenant, admin: &Client) {
    let verifier = ScramVerifier::for_random_secret(&password(world, tenant), &OsEntropy).to_text();
    let role = RoleName::of_tenant(tenant.id);
    admin.batch_execute(&format!("alter role {role} password '{verifier}'")).await.unwrap();
}

/// The tenant's server is reached by its socket. TLS is on in the endpoint, and
/// not asked for.
fn by_socket(world: &World, server: &TestServer) -> Rows {
    let folder = server.socket_folder();
    let endpoint = world.endpoint(folder.to_str().unwrap(), server.port(), true);
    Rows { endpoints: vec![endpoint], ..Rows::default() }
}

fn sqlstate(error: &Error) -> String {
    error.code().unwrap_or_else(|| panic!("not from the server: {error:?}")).code().to_owned()
}

#[tokio::test]
async fn a_server_is_reached_by_its_socket() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let mut server = server_of(&world, &tenant, TcpAccess::Superuser).await;
    world.push(by_socket(&world, &server));
    let client = world.connect(&tenant).await;
    assert_eq!(one(&client, "select coalesce(inet_server_addr()::text, 'a socket')").await, "a socket");
    assert_eq!(one(&client, "show insula.tenant").await, "acme");

    client.batch_execute("create table items (id int, name text)").await.unwrap();
    let rows: String = (0..50_000).map(|number| format!("{number}\tname {number}\n")).collect();
    let sink = client.copy_in::<_, bytes::Bytes>("copy items from stdin").await.unwrap();
    futures_util::pin_mut!(sink);
    sink.send(rows.into()).await.unwrap();
    assert_eq!(sink.finish().await.unwrap(), 50_000);

    let cancel = client.cancel_token();
    let (slept, ()) = tokio::join!(client.batch_execute("select pg_sleep(600)"), async {
        let admin = server.connect("postgres").await;
        let query = "select count(*) from pg_stat_activity where wait_event = 'PgSleep'";
        while admin.query_one(query, &[]).await.unwrap().get::<_, i64>(0) == 0 {
            tokio::task::yield_now().await;
        }
        cancel.cancel_query(NoTls).await.unwrap();
    });
    assert_eq!(sqlstate(&slept.unwrap_err()), "57014");

    server.stop().await;
    client.batch_execute("select 1").await.expect_err("the session ends with the server");
    assert_eq!(refused(&world.config(&tenant)).await, pair("57P03", "placement_unavailable"));
    server.start_again().await;
    assert_eq!(one(&world.connect(&tenant).await, "select count(*)::text from items").await, "50000");
}

#[tokio::test]
async fn many_sessions_at_once_find_room_in_the_sockets_queue() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let server = server_of(&world, &tenant, TcpAccess::Superuser).await;
    world.push(by_socket(&world, &server));
    let sessions = (0..100).map(|_| world.connect(&tenant));
    let sessions = tokio::time::timeout(PATIENCE, futures_util::future::join_all(sessions)).await.unwrap();
    assert_eq!(sessions.len(), 100);
}

#[tokio::test]
async fn a_socket_that_is_not_there_or_cannot_be_is_a_server_that_is_away() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    for folder in ["/nowhere".to_owned(), format!("/{}", "x".repeat(200))] {
        let endpoint = world.endpoint(&folder, 1, false);
        world.push(Rows { endpoints: vec![endpoint], ..Rows::default() });
        assert_eq!(refused(&world.config(&tenant)).await, pair("57P03", "placement_unavailable"));
    }
}

#[tokio::test]
async fn a_tenant_that_sets_its_own_password_still_has_to_come_through_the_front() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let role = RoleName::of_tenant(tenant.id);
    let database = tenant.route.placement.as_ref().unwrap().database.clone();
    // The canary: where everybody is admitted, the password is all that it takes.
    for (tcp, admitted) in [(TcpAccess::Superuser, false), (TcpAccess::Everybody, true)] {
        let server = server_of(&world, &tenant, tcp).await;
        world.push(by_socket(&world, &server));
        let client = world.connect(&tenant).await;
        client
            .batch_execute("do $$ begin execute 'alter role current_user password ''mine'''; end $$")
            .await
            .unwrap();
        let past_the_front: Config = server.url_as(role.as_str(), "mine", database.as_str()).parse().unwrap();
        match connect(&past_the_front).await {
            Ok(client) => {
                assert!(admitted);
                assert_eq!(one(&client, "select current_user::text").await, role.as_str());
            }
            Err(error) => {
                assert!(!admitted);
                assert_eq!(sqlstate(&error), "28000");
                assert!(error.as_db_error().unwrap().message().contains("pg_hba.conf rejects"), "{error:?}");
            }
        }
        // By what it set, it has only shut itself out.
        assert_eq!(refused(&world.config(&tenant)).await, pair("57P03", "placement_unavailable"));
        set_password(&world, &tenant, &server.connect("postgres").await).await;
        assert_eq!(one(&world.connect(&tenant).await, "select 'back'").await, "back");
    }
}

/// Connects from an address, with TLS or without.
async fn connect_from(
    address: &str,
    config: &Config,
    tls: Option<&Certificate>,
    port: u16,
) -> Result<Client, Error> {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(format!("{address}:0").parse().unwrap()).unwrap();
    let stream = socket.connect(([127, 0, 0, 1], port).into()).await.unwrap();
    let mut config = config.clone();
    let Some(certificate) = tls else {
        let (client, connection) = config.ssl_mode(SslMode::Disable).connect_raw(stream, NoTls).await?;
        tokio::spawn(async move { drop(connection.await) });
        return Ok(client);
    };
    let mut make = client_tls(&certificate.der);
    let tls = MakeTlsConnect::<tokio::net::TcpStream>::make_tls_connect(&mut make, "localhost").unwrap();
    let (client, connection) = config.ssl_mode(SslMode::Require).connect_raw(stream, tls).await?;
    tokio::spawn(async move { drop(connection.await) });
    Ok(client)
}

/// The lines of docs/guides/production.md, before what a server had.
const LINES: &str = "hostssl all +insula_tenants 127.0.0.1/32 scram-sha-256\n\
                     host    all +insula_tenants all          reject\n\
                     host    all all             all          scram-sha-256\n";

#[tokio::test]
async fn the_guides_two_lines_admit_tenants_from_the_front_alone() {
    let (world, certificate) = (World::start().await, certificate());
    let tenant = world.tenant("acme").await;
    let server = tls_server(&world, &tenant, &certificate).await;
    let role = RoleName::of_tenant(tenant.id);
    let admin = server.connect("postgres").await;
    admin
        .batch_execute(&format!(
            "create role insula_tenants nologin; grant insula_tenants to {role};
             create role somebody login password 'mine'"
        ))
        .await
        .unwrap();
    let file: String = admin.query_one("show hba_file", &[]).await.unwrap().get(0);
    std::fs::write(&file, LINES).unwrap();
    admin.batch_execute("select pg_reload_conf()").await.unwrap();

    let secret = password(&world, &tenant);
    let database = tenant.route.placement.as_ref().unwrap().database.clone();
    let own: Config = server.url_as(role.as_str(), secret.expose(), database.as_str()).parse().unwrap();
    let somebody: Config = server.url_as("somebody", "mine", "postgres").parse().unwrap();
    let (tls, port) = (Some(&certificate), server.port());
    let closed = async {
        while connect_from("127.0.0.2", &own, tls, port).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, closed).await.expect("the new file is read");
    for (from, tls) in [("127.0.0.2", tls), ("127.0.0.2", None), ("127.0.0.1", None)] {
        let error = connect_from(from, &own, tls, port).await.map(drop).unwrap_err();
        assert_eq!(sqlstate(&error), "28000", "{from}, TLS {}", tls.is_some());
    }
    connect_from("127.0.0.1", &own, tls, port)
        .await
        .expect("canary: the front's address and TLS open the door");
    connect_from("127.0.0.2", &somebody, tls, port).await.expect("canary: others go on as before");

    let endpoint = world.endpoint("127.0.0.1", port, true);
    world.push(Rows { endpoints: vec![endpoint], ..Rows::default() });
    assert_eq!(one(&world.connect(&tenant).await, "select current_user::text").await, role.as_str());
}
