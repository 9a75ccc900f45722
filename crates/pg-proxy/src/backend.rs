//! Opening a backend: a connection to the tenant's server as the tenant's own
//! role. It can be begun ahead of its time, up to the server's question for
//! the role's proof: more than half of what it takes comes before that, and
//! whether the role is let into the database is looked at behind it.
//!
//! The server proves who it is: with SCRAM it must show that it knows the
//! role's verifier, which only the server with this tenant's role does. An
//! address that was given to another server since is found out here. This is
//! the same on a Unix socket, which has no TLS. With TLS
//! the proof is bound to the server's certificate, so that nobody in between
//! can pass it on. A server that lets the role in without this proof is refused.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use insula_credentials::scram::{EndPoint, Mechanism, ScramClient, ScramError};
use insula_credentials::{ChannelKey, Secret};
use insula_domain::{Address, DatabaseName, Entropy, RoleName, TenantId};
use insula_pg_wire::backend::{
    Authentication, parse_backend_key_data, parse_error, parse_negotiate_protocol_version,
    parse_parameter_status, tag,
};
use insula_pg_wire::startup::{CancelKey, MINOR_VERSION_MAX, put_session_start_of, put_ssl_request};
use insula_pg_wire::{Message, NulInText, WireError, frontend};
use insula_route_map::ClusterEndpoint;
use rustls::pki_types::ServerName;
use thiserror::Error;
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{sleep, timeout};
use tokio_rustls::{TlsConnector, TlsStream};

use crate::cancel::CancelTarget;
use crate::link::{Link, LinkError};
use crate::prepared::Kept;
use crate::roster::{Badge, Roster, Who};
use crate::settings::{Reported, SessionSettings};
use crate::wire::{Wire, prepare};

/// Longest message of a server before it is ready.
const MESSAGE_BYTES_MAX: u32 = 64 * 1024;

/// Messages of a server before it is ready, at most: settings and notices.
const MESSAGES_MAX: usize = 1000;

/// The setting from which `insula.pg_notify` takes by what channels are named.
/// What a connection begins with is what it is reset to.
const CHANNEL_KEY: &[u8] = b"insula.channel_key";

/// How long to wait where a Unix socket's queue is full: over TCP the system
/// waits by itself.
const SOCKET_RETRY: Duration = Duration::from_millis(5);

/// A backend that is ready, and what is in it.
#[derive(Debug)]
pub(crate) struct Backend {
    pub link: Link,
    /// How to cancel what it is doing.
    pub target: CancelTarget,
    pub contents: Contents,
    /// Where it is to be seen.
    pub badge: Badge,
}

/// What is in a backend, as far as it is known.
#[derive(Debug, Default)]
pub(crate) struct Contents {
    /// What it has said of its settings.
    pub reported: Arc<Reported>,
    /// What the session has set that had it last.
    pub settings: Arc<SessionSettings>,
    /// The prepared statements that it has.
    pub kept: Kept,
    /// The state of the pool's definitions when it was given the first of them.
    pub definitions: u64,
}

impl Backend {
    /// Whether the server has said nothing since it was given back: what it
    /// says by itself is mostly that it goes.
    pub fn is_alive(&self) -> bool {
        self.link.is_quiet()
    }

    /// Ends it, and waits until it is gone, so far as can be known.
    pub async fn end(mut self, within: Duration, leftover_bytes_max: usize) {
        self.link.put(frontend::put_terminate);
        let gone = async {
            self.link.shutdown().await?;
            self.link.drain(leftover_bytes_max).await;
            io::Result::Ok(())
        };
        // A server that does not answer has ended it, or is gone itself.
        let _ = timeout(within, gone).await;
    }

    /// Has it run statements of the front's own, and takes in what it reports.
    /// None of them gives rows that matter.
    pub async fn run(&mut self, sql: &str) -> Result<(), BackendError> {
        let mut written = Ok(());
        self.link.put(|out| written = frontend::put_query(out, sql.as_bytes()));
        written?;
        let mut failed = None;
        loop {
            let message = self.link.message(MESSAGE_BYTES_MAX).await?;
            match message.tag {
                tag::PARAMETER_STATUS => {
                    let (name, value) = parse_parameter_status(&message.body)?;
                    Arc::make_mut(&mut self.contents.reported).take(name, value);
                }
                tag::ERROR_RESPONSE => failed = Some(refused(message.body)?),
                tag::READY_FOR_QUERY => return failed.map_or(Ok(()), Err),
                _ => {}
            }
        }
    }
}

/// Whom a backend is for.
#[derive(Debug)]
pub(crate) struct Dialling<'a> {
    pub endpoint: &'a ClusterEndpoint,
    pub role: &'a RoleName,
    pub database: &'a DatabaseName,
    pub password: Secret,
    /// By what its notification channels are named, where the database is not
    /// the tenant's own.
    pub channel_key: Option<ChannelKey>,
}

/// As whom a backend is listed.
#[derive(Debug)]
pub(crate) struct Listing<'a> {
    pub tenant: TenantId,
    pub endpoint: &'a Arc<ClusterEndpoint>,
    pub role: &'a RoleName,
    pub roster: &'a Arc<Roster>,
}

/// A connection on which the server waits for the role's proof. It has a
/// process there, which knows of no database yet.
#[derive(Debug)]
pub(crate) struct Dialled {
    link: Link,
    scram: ScramClient,
    challenge: Bytes,
}

/// Why there is no backend.
#[derive(Debug, Error)]
pub(crate) enum BackendError {
    #[error("connecting to the server took too long")]
    TimedOut,
    #[error("the server cannot be reached")]
    Io(#[from] io::Error),
    #[error("the server closed the connection before it was ready")]
    Closed,
    #[error("the server does not speak the protocol")]
    Wire(#[from] WireError),
    #[error("the server's name {0:?} cannot be used with TLS")]
    ServerName(String),
    #[error("the server refuses TLS")]
    NoTls,
    #[error("the server's certificate has no channel binding")]
    NoChannelBinding,
    #[error("the server does not prove who it is: it offers no {0}")]
    NoProof(&'static str),
    #[error("the server could not be verified")]
    Scram(#[from] ScramError),
    #[error("a setting holds a zero byte")]
    Setting(#[from] NulInText),
    #[error("the server sent something out of place")]
    OutOfPlace,
    /// The server's own refusal.
    #[error("the server refuses: {sqlstate} {message}")]
    Refused { sqlstate: String, message: String, body: Bytes },
}

impl BackendError {
    /// The server's refusal of a setting that the client gave (classes 22 and
    /// 42: a wrong value, an unknown name, no right to it), to be shown to the
    /// client as it is.
    pub fn refused_setting(&self) -> Option<&Bytes> {
        match self {
            Self::Refused { sqlstate, body, .. }
                if sqlstate.starts_with("22") || sqlstate.starts_with("42") =>
            {
                Some(body)
            }
            _ => None,
        }
    }

    /// The server has no room for one more backend.
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Refused { sqlstate, .. } if sqlstate == "53300")
    }
}

impl From<LinkError> for BackendError {
    fn from(error: LinkError) -> Self {
        match error {
            LinkError::Closed => Self::Closed,
            LinkError::Io(error) => Self::Io(error),
            LinkError::Wire(error) => Self::Wire(error),
        }
    }
}

/// A connection on which nothing was said yet.
pub(crate) struct Connection {
    pub link: Link,
    /// The server's certificate, where the connection has TLS.
    end_point: Option<EndPoint>,
}

/// Connects, with TLS where the endpoint asks for it and is no Unix socket. The
/// caller bounds the time.
pub(crate) async fn connect(
    endpoint: &ClusterEndpoint,
    tls: &TlsConnector,
) -> Result<Connection, BackendError> {
    let (host, port) = match Address::new(&endpoint.host, endpoint.port) {
        Address::Tcp(host, port) => (host, port),
        Address::Socket(path) => {
            let link = Link::new(Wire::Socket(connect_socket(&path).await?));
            return Ok(Connection { link, end_point: None });
        }
    };
    let stream = TcpStream::connect((host, port)).await?;
    prepare(&stream)?;
    let mut link = Link::new(Wire::Plain(stream));
    if !endpoint.tls {
        return Ok(Connection { link, end_point: None });
    }
    link.put(put_ssl_request);
    if link.byte().await? != b'S' {
        return Err(BackendError::NoTls);
    }
    // What came before the handshake came from anybody (CVE-2021-23222).
    let Ok(Wire::Plain(stream)) = link.into_wire() else { return Err(BackendError::OutOfPlace) };
    let name = ServerName::try_from(endpoint.host.clone())
        .map_err(|_| BackendError::ServerName(endpoint.host.clone()))?;
    let stream = tls.connect(name, stream).await?;
    let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
    let end_point = certificate.and_then(|certificate| EndPoint::of_certificate(certificate));
    let end_point = Some(end_point.ok_or(BackendError::NoChannelBinding)?);
    let link = Link::new(Wire::Tls(Box::new(TlsStream::Client(stream))));
    Ok(Connection { link, end_point })
}

async fn connect_socket(path: &Path) -> io::Result<UnixStream> {
    loop {
        match UnixStream::connect(path).await {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => sleep(SOCKET_RETRY).await,
            connected => return connected,
        }
    }
}

/// Begins to open a backend. The caller bounds the time.
pub(crate) async fn dial(
    dialling: Dialling<'_>,
    tls: &TlsConnector,
    entropy: &dyn Entropy,
) -> Result<Dialled, BackendError> {
    let Connection { mut link, end_point } = connect(dialling.endpoint, tls).await?;
    let mut parameters: Vec<(&[u8], &[u8])> = vec![
        (b"user", dialling.role.as_str().as_bytes()),
        (b"database", dialling.database.as_str().as_bytes()),
    ];
    let channel_key = dialling.channel_key.map(|key| key.setting());
    parameters.extend(channel_key.as_ref().map(|key| (CHANNEL_KEY, key.as_bytes())));
    let mut written = Ok(());
    link.put(|out| written = put_session_start_of(out, MINOR_VERSION_MAX, &parameters));
    written?;
    let scram = ScramClient::new(dialling.password, end_point, entropy);
    let challenge = challenge(&mut link, &scram).await?;
    Ok(Dialled { link, scram, challenge })
}

impl Dialled {
    /// Whether the server has said nothing more: mostly that it goes.
    pub fn is_alive(&self) -> bool {
        self.link.is_quiet()
    }

    /// Goes on until the backend is ready. The caller bounds the time.
    pub async fn finish(self, listing: Listing<'_>) -> Result<Backend, BackendError> {
        let Self { mut link, scram, challenge } = self;
        prove(&mut link, scram, &challenge).await?;
        let (key, reported) = greeting(&mut link).await?;
        let endpoint = Arc::clone(listing.endpoint);
        let who = Who {
            cluster: endpoint.name.clone(),
            tenant: listing.tenant,
            role: listing.role.clone(),
            process_id: key.process_id,
        };
        Ok(Backend {
            badge: listing.roster.enter(who, Instant::now()),
            link,
            target: CancelTarget { endpoint, key },
            contents: Contents { reported: Arc::new(reported), ..Contents::default() },
        })
    }
}

/// The exchange of SCRAM, as far as the server's first message.
async fn challenge(link: &mut Link, scram: &ScramClient) -> Result<Bytes, BackendError> {
    let (mechanism, first) = (scram.mechanism(), scram.first_message());
    let message = begun(link).await?;
    let Authentication::Sasl(offered) = Authentication::from_body(&message)? else {
        return Err(BackendError::NoProof(mechanism.name()));
    };
    if !offered.into_iter().filter_map(Mechanism::from_name).any(|offered| offered == mechanism) {
        return Err(BackendError::NoProof(mechanism.name()));
    }
    let mut written = Ok(());
    link.put(|out| {
        written = frontend::put_sasl_initial_response(out, mechanism.name(), first.as_bytes());
    });
    written?;
    authentication(link).await
}

/// The rest of it, the server's proof included.
async fn prove(link: &mut Link, scram: ScramClient, challenge: &Bytes) -> Result<(), BackendError> {
    let Authentication::SaslContinue(server_first) = Authentication::from_body(challenge)? else {
        return Err(BackendError::OutOfPlace);
    };
    let (scram, last) = scram.server_first(server_first)?;
    link.put(|out| frontend::put_sasl_response(out, last.as_bytes()));
    let message = authentication(link).await?;
    let Authentication::SaslFinal(server_final) = Authentication::from_body(&message)? else {
        return Err(BackendError::OutOfPlace);
    };
    scram.server_final(server_final)?;
    let message = authentication(link).await?;
    match Authentication::from_body(&message)? {
        Authentication::Ok => Ok(()),
        _ => Err(BackendError::OutOfPlace),
    }
}

/// What the server asks first. One that speaks an older minor version says so
/// before; what differs is only how long its cancel keys are.
async fn begun(link: &mut Link) -> Result<Bytes, BackendError> {
    let message = link.message(MESSAGE_BYTES_MAX).await?;
    if message.tag != tag::NEGOTIATE_PROTOCOL_VERSION {
        return asked(message);
    }
    match parse_negotiate_protocol_version(&message.body)? {
        (minor_version, 0) if minor_version < MINOR_VERSION_MAX => authentication(link).await,
        _ => Err(BackendError::OutOfPlace),
    }
}

async fn authentication(link: &mut Link) -> Result<Bytes, BackendError> {
    asked(link.message(MESSAGE_BYTES_MAX).await?)
}

fn asked(message: Message) -> Result<Bytes, BackendError> {
    match message.tag {
        tag::AUTHENTICATION => Ok(message.body),
        tag::ERROR_RESPONSE => Err(refused(message.body)?),
        _ => Err(BackendError::OutOfPlace),
    }
}

/// What the server says between letting the role in and being ready.
async fn greeting(link: &mut Link) -> Result<(CancelKey, Reported), BackendError> {
    let (mut key, mut reported) = (None, Reported::default());
    for _ in 0..MESSAGES_MAX {
        let message = link.message(MESSAGE_BYTES_MAX).await?;
        match message.tag {
            tag::PARAMETER_STATUS => {
                let (name, value) = parse_parameter_status(&message.body)?;
                reported.take(name, value);
            }
            tag::NOTICE_RESPONSE => {}
            tag::BACKEND_KEY_DATA => key = Some(parse_backend_key_data(&message.body)?),
            tag::READY_FOR_QUERY => return Ok((key.ok_or(BackendError::OutOfPlace)?, reported)),
            tag::ERROR_RESPONSE => return Err(refused(message.body)?),
            _ => break,
        }
    }
    Err(BackendError::OutOfPlace)
}

fn refused(body: Bytes) -> Result<BackendError, WireError> {
    let (sqlstate, message) = parse_error(&body)?;
    Ok(BackendError::Refused { sqlstate, message, body })
}
