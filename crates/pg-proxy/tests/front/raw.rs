//! A client that says exactly what a test wants it to say.

use bytes::BytesMut;
use insula_credentials::Secret;
use insula_credentials::scram::ScramClient;
use insula_domain::OsEntropy;
use insula_pg_wire::backend::{Authentication, parse_backend_key_data, parse_error, tag};
use insula_pg_wire::startup::{CancelKey, put_session_start_of};
use insula_pg_wire::{Message, frontend, read_message};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::{PATIENCE, Tenant, World};

pub struct Raw {
    pub stream: TcpStream,
    inbox: BytesMut,
}

impl Raw {
    pub async fn connect(world: &World) -> Self {
        Self::new(TcpStream::connect(world.address).await.unwrap())
    }

    pub fn new(stream: TcpStream) -> Self {
        Self { stream, inbox: BytesMut::new() }
    }

    pub async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    pub async fn write(&mut self, put: impl FnOnce(&mut BytesMut)) {
        let mut out = BytesMut::new();
        put(&mut out);
        self.send(&out).await;
    }

    /// The next message; `None` at the end of the stream.
    pub async fn next(&mut self) -> Option<Message> {
        let next = async {
            loop {
                if let Some(message) = read_message(&mut self.inbox, 1 << 30).unwrap() {
                    return Some(message);
                }
                if self.stream.read_buf(&mut self.inbox).await.unwrap_or(0) == 0 {
                    assert!(self.inbox.is_empty(), "the stream ended within a message");
                    return None;
                }
            }
        };
        timeout(PATIENCE, next).await.expect("a message comes")
    }

    /// The type of the next message, which stays.
    pub async fn next_tag(&mut self) -> u8 {
        while self.inbox.is_empty() {
            let read = timeout(PATIENCE, self.stream.read_buf(&mut self.inbox)).await;
            assert!(read.expect("a message comes").unwrap() > 0, "the stream goes on");
        }
        self.inbox[0]
    }

    /// Everything up to the end of the stream.
    pub async fn rest(&mut self) -> Vec<u8> {
        let mut rest = self.inbox.split().to_vec();
        timeout(PATIENCE, self.stream.read_to_end(&mut rest)).await.expect("the stream ends").unwrap();
        rest
    }

    /// The SQLSTATE and the message of an error that must come next, then the
    /// end of the stream.
    pub async fn refusal(&mut self) -> (String, String) {
        let message = self.next().await.expect("an error comes");
        assert_eq!(message.tag, tag::ERROR_RESPONSE, "{message:?}");
        assert!(self.next().await.is_none(), "nothing follows a refusal");
        parse_error(&message.body).unwrap()
    }

    pub async fn start(&mut self, parameters: &[(&str, &str)]) {
        self.start_of(0, parameters).await;
    }

    /// The same in another minor version of the protocol.
    pub async fn start_of(&mut self, minor_version: u16, parameters: &[(&str, &str)]) {
        let parameters: Vec<(&[u8], &[u8])> =
            parameters.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())).collect();
        self.write(|out| put_session_start_of(out, minor_version, &parameters).unwrap()).await;
    }

    /// Goes through the exchange; gives the server's first message of it, and
    /// the message that comes after the client's last.
    pub async fn scram(&mut self, secret: &str) -> (String, Message) {
        self.scram_and(secret, b"").await
    }

    /// The same, with bytes sent right behind the client's last message.
    pub async fn scram_and(&mut self, secret: &str, behind: &[u8]) -> (String, Message) {
        let message = self.next().await.expect("an answer comes");
        let offered = Authentication::from_body(&message.body).unwrap();
        assert!(matches!(offered, Authentication::Sasl(_)), "{offered:?}");
        let client = ScramClient::new(Secret::new(secret.to_owned()), None, &OsEntropy);
        let first = client.first_message();
        self.write(|out| {
            frontend::put_sasl_initial_response(out, "SCRAM-SHA-256", first.as_bytes()).unwrap();
        })
        .await;
        let message = self.next().await.expect("an answer comes");
        let Ok(Authentication::SaslContinue(server_first)) = Authentication::from_body(&message.body) else {
            panic!("{message:?}")
        };
        let (_, last) = client.server_first(server_first).unwrap();
        let server_first = String::from_utf8(server_first.to_vec()).unwrap();
        self.write(|out| {
            frontend::put_sasl_response(out, last.as_bytes());
            out.extend_from_slice(behind);
        })
        .await;
        (server_first, self.next().await.expect("an answer comes"))
    }

    /// A session as the tenant, ready for queries, with its cancel key.
    pub async fn session(world: &World, tenant: &Tenant) -> (Self, CancelKey) {
        let mut raw = Self::connect(world).await;
        raw.start(&[("user", tenant.login.name.as_str()), ("database", "app")]).await;
        let key = raw.come_in(&tenant.secret).await;
        (raw, key)
    }

    /// Proves the secret and waits until the session is ready; its cancel key.
    pub async fn come_in(&mut self, secret: &str) -> CancelKey {
        self.scram(secret).await;
        let messages = self.until_ready().await;
        let key = messages.iter().find(|message| message.tag == tag::BACKEND_KEY_DATA);
        parse_backend_key_data(&key.expect("a key").body).unwrap()
    }

    /// All messages up to and with the next `ReadyForQuery`.
    pub async fn until_ready(&mut self) -> Vec<Message> {
        let mut messages = Vec::new();
        loop {
            let message = self.next().await.expect("the session goes on");
            let is_ready = message.tag == tag::READY_FOR_QUERY;
            messages.push(message);
            if is_ready {
                return messages;
            }
        }
    }

    pub async fn query(&mut self, query: &str) {
        self.write(|out| frontend::put_query(out, query.as_bytes()).unwrap()).await;
    }
}

/// The types of messages, as letters.
pub fn letters(messages: &[Message]) -> String {
    messages.iter().map(|message| char::from(message.tag)).collect()
}
