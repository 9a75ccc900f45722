//! Opening a connection: over TCP or a Unix socket, with TLS where it is asked
//! for, and the proof of the password.

use std::io;
use std::time::Duration;

use bytes::BytesMut;
use insula_domain::Address;
use insula_pg_wire::backend::{Authentication, parse_backend_key_data, tag};
use insula_pg_wire::{WireError, frontend, startup};
use insula_sql_store::Dial;
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256};
use rustls::pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;

use super::{Duplex, Wire, WireFault, server_error};

/// How long the opening of a connection may take.
const WITHIN: Duration = Duration::from_secs(5);

/// After so long without a byte the other side is asked whether it is there, so
/// that one that has vanished is noticed within a minute.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(30);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(10);
const KEEPALIVE_TRIES: u32 = 3;

/// How long to wait where a Unix socket's queue is full: over TCP the system
/// waits by itself.
const SOCKET_RETRY: Duration = Duration::from_millis(5);

/// Salted MD5 of PostgreSQL's own (`Authentication::Other`), with four bytes of salt.
const MD5: u32 = 5;

impl Wire {
    /// Opens a connection. The parameters are those of the start, beside the
    /// user and the database.
    pub async fn open(dial: &Dial, parameters: &[(&str, &str)]) -> Result<Self, WireFault> {
        timeout(WITHIN, open(dial, parameters)).await.map_err(|_| WireFault::TimedOut)?
    }
}

async fn open(dial: &Dial, parameters: &[(&str, &str)]) -> Result<Wire, WireFault> {
    let stream = connect(dial).await?;
    let (input, output) = (BytesMut::new(), BytesMut::new());
    let mut wire = Wire { stream, input, output, unflushed: false, pid: 0 };
    let mut all = vec![(&b"user"[..], dial.user.as_bytes()), (b"database", dial.database.as_bytes())];
    all.extend(parameters.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())));
    startup::put_session_start(&mut wire.output, &all)?;
    authenticate(&mut wire, dial).await?;
    loop {
        let message = wire.message().await?;
        match message.tag {
            tag::BACKEND_KEY_DATA => {
                wire.pid = parse_backend_key_data(&message.body)?.process_id.cast_signed();
            }
            tag::PARAMETER_STATUS | tag::NOTICE_RESPONSE => {}
            tag::READY_FOR_QUERY => return Ok(wire),
            tag::ERROR_RESPONSE => return Err(WireFault::Server(server_error(&message.body)?)),
            other => return Err(WireFault::OutOfPlace(char::from(other))),
        }
    }
}

/// The first of the hosts that takes the connection.
async fn connect(dial: &Dial) -> Result<Box<dyn Duplex>, WireFault> {
    let mut last = WireFault::Io(io::Error::from(io::ErrorKind::AddrNotAvailable));
    for (host, port) in &dial.hosts {
        match connect_to(host, *port, dial).await {
            Ok(stream) => return Ok(stream),
            Err(fault) => last = fault,
        }
    }
    Err(last)
}

async fn connect_to(host: &str, port: u16, dial: &Dial) -> Result<Box<dyn Duplex>, WireFault> {
    let mut stream = match Address::new(host, port) {
        Address::Socket(path) => loop {
            match UnixStream::connect(&path).await {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => sleep(SOCKET_RETRY).await,
                connected => return Ok(Box::new(connected?)),
            }
        },
        Address::Tcp(host, port) => TcpStream::connect((host, port)).await?,
    };
    stream.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_AFTER)
        .with_interval(KEEPALIVE_EVERY)
        .with_retries(KEEPALIVE_TRIES);
    SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
    let Some(trust) = &dial.tls else { return Ok(Box::new(stream)) };
    let mut request = BytesMut::new();
    startup::put_ssl_request(&mut request);
    stream.write_all(&request).await?;
    // Nothing more is read: what came before the handshake came from anybody.
    if stream.read_u8().await? != b'S' {
        return Err(WireFault::Authentication("it refuses TLS".to_owned()));
    }
    let name = ServerName::try_from(host.to_owned())
        .map_err(|_| WireFault::Authentication(format!("the name {host:?} cannot be used with TLS")))?;
    Ok(Box::new(TlsConnector::from(trust.clone()).connect(name, stream).await?))
}

/// Shows the password in the way that the server asks for.
async fn authenticate(wire: &mut Wire, dial: &Dial) -> Result<(), WireFault> {
    let password = dial.password.as_deref().unwrap_or_default();
    let mut scram = None;
    loop {
        let message = wire.message().await?;
        match message.tag {
            tag::AUTHENTICATION => {}
            tag::ERROR_RESPONSE => return Err(WireFault::Server(server_error(&message.body)?)),
            tag::NOTICE_RESPONSE => continue,
            other => return Err(WireFault::OutOfPlace(char::from(other))),
        }
        match (Authentication::from_body(&message.body)?, &mut scram) {
            (Authentication::Ok, None) => return Ok(()),
            (Authentication::CleartextPassword, None) => put_password(wire, password),
            (Authentication::Other(MD5), None) => {
                let salt = message.body.get(4..8).and_then(|salt| salt.try_into().ok());
                let salt = salt.ok_or(WireError::Malformed("the salt is short"))?;
                put_password(wire, md5_hash(dial.user.as_bytes(), password, salt).as_bytes());
            }
            (Authentication::Sasl(offered), None) if offered.contains(&SCRAM_SHA_256.as_bytes()) => {
                // The certificate is verified, so the proof is not bound to it.
                let begun = ScramSha256::new(password, ChannelBinding::unsupported());
                frontend::put_sasl_initial_response(&mut wire.output, SCRAM_SHA_256, begun.message())?;
                scram = Some(begun);
            }
            (Authentication::SaslContinue(data), Some(scram)) => {
                scram.update(data)?;
                frontend::put_sasl_response(&mut wire.output, scram.message());
            }
            (Authentication::SaslFinal(data), Some(begun)) => {
                begun.finish(data)?;
                scram = None;
            }
            (other, _) => return Err(WireFault::Authentication(format!("{other:?}"))),
        }
    }
}

fn put_password(wire: &mut Wire, password: &[u8]) {
    // A `PasswordMessage` is laid out as a `SASLResponse` with a zero byte.
    frontend::put_sasl_response(&mut wire.output, &[password, &[0]].concat());
}
