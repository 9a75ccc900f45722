//! A client of the front that says exactly what it is told to say, keeps
//! everything that it receives, and waits for nothing without a bound.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use insula_credentials::Secret;
use insula_credentials::scram::{EndPoint, ScramClient, ServerFirstSeen, client_config_bound_later};
use insula_domain::Entropy;
use insula_pg_wire::backend::{
    Authentication, parse_backend_key_data, parse_command_complete, parse_data_row, parse_error, tag,
};
use insula_pg_wire::startup::{CancelKey, put_session_start, put_ssl_request};
use insula_pg_wire::{Message, frontend, read_message};
use insula_sql_store::{Connector, UrlParts};
use rustls::pki_types::ServerName;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// The longest that an answer may take.
const PATIENCE: Duration = Duration::from_secs(15);

/// How long nothing has come when it is taken that nothing will, without
/// another word of this side.
const QUIET: Duration = Duration::from_millis(300);

/// The last question of who says bytes, which gives no value, and the name by
/// which its answer is known.
const LAST_QUESTION: &str = "select 1 as insula_attack_last where false";
const LAST_NAME: &[u8] = b"insula_attack_last\0";

/// The longest message that is read, and the most that is kept of one answer.
const BYTES_MAX: usize = 8 << 20;

/// Message types that the front does not need and this client does.
const COPY_BOTH_RESPONSE: u8 = b'W';

/// A session could not be had, or ended.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum Gone {
    /// It was refused, or ended, with this.
    #[error("refused: {0} {1}")]
    Refused(String, String),
    /// The stream ended.
    #[error("the connection was closed")]
    Closed,
    /// It took too long.
    #[error("no answer within {} s", PATIENCE.as_secs())]
    Silent,
    /// What came is not what the protocol says.
    #[error("not understood: {0}")]
    Broken(String),
    /// There is no way to the front.
    #[error("the front cannot be reached: {0}")]
    Unreachable(String),
}

/// A login: where, as whom.
#[derive(Clone)]
pub(crate) struct Login {
    pub parts: Arc<UrlParts>,
    entropy: Arc<dyn Entropy>,
}

/// How far a SCRAM exchange is.
#[derive(Default)]
enum Exchange {
    #[default]
    None,
    Begun(ScramClient),
    Answered(ServerFirstSeen),
}

/// Everything that came in answer to one message.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Answer {
    /// Rows, as text.
    pub rows: Vec<Vec<Option<String>>>,
    /// What was done: `SELECT 1`, `UPDATE 0`.
    pub done: Vec<String>,
    /// SQLSTATE and message of each error.
    pub errors: Vec<(String, String)>,
    /// Every byte of every message's body.
    pub raw: Vec<u8>,
}

impl Answer {
    /// Adds what came later.
    pub fn and(&mut self, later: Self) {
        self.rows.extend(later.rows);
        self.done.extend(later.done);
        self.errors.extend(later.errors);
        self.raw.extend(later.raw);
    }

    /// The values that came, one behind the other.
    pub fn values(&self) -> impl Iterator<Item = &str> {
        self.rows.iter().flatten().map(|value| value.as_deref().unwrap_or("null"))
    }

    fn take(&mut self, message: &Message) -> Result<(), Gone> {
        let broken = |error: insula_pg_wire::WireError| Gone::Broken(error.to_string());
        if self.raw.len() + message.body.len() <= BYTES_MAX {
            self.raw.extend_from_slice(&message.body);
            self.raw.push(b'\n');
        }
        match message.tag {
            tag::DATA_ROW => {
                let row = parse_data_row(&message.body).map_err(broken)?;
                let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
                self.rows.push(row.into_iter().map(|value| value.map(text)).collect());
            }
            tag::COMMAND_COMPLETE => {
                let done = parse_command_complete(&message.body).map_err(broken)?;
                self.done.push(String::from_utf8_lossy(done).into_owned());
            }
            tag::ERROR_RESPONSE => self.errors.push(parse_error(&message.body).map_err(broken)?),
            _ => {}
        }
        Ok(())
    }
}

impl Login {
    /// A login by its URL.
    pub fn new(url: &str, entropy: Arc<dyn Entropy>) -> Result<Self, Gone> {
        let parts = Connector::parts(url).map_err(|error| Gone::Unreachable(error.to_string()))?;
        Ok(Self { parts: Arc::new(parts), entropy })
    }

    /// A session as this login.
    pub async fn session(&self) -> Result<Session, Gone> {
        self.session_with(&[], None).await
    }

    /// A session with further parameters, or others, and another secret.
    pub async fn session_with(
        &self,
        parameters: &[(String, String)],
        secret: Option<&str>,
    ) -> Result<Session, Gone> {
        let mut session = self.knock().await?;
        let named = |name: &str| parameters.iter().any(|(known, _)| known == name);
        let mut all = Vec::new();
        for (name, value) in [("user", self.parts.user.as_str()), ("database", "app")] {
            if !named(name) {
                all.push((name.as_bytes(), value.as_bytes()));
            }
        }
        all.extend(parameters.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())));
        let mut out = BytesMut::new();
        put_session_start(&mut out, &all).map_err(|error| Gone::Broken(error.to_string()))?;
        session.send(&out).await?;
        let secret = secret.unwrap_or(&self.parts.password);
        session.authenticate(secret, self.entropy.as_ref()).await?;
        Ok(session)
    }

    /// A connection on which nothing was said yet, within TLS where the front has
    /// it.
    pub async fn knock(&self) -> Result<Session, Gone> {
        bounded(self.connect()).await
    }

    async fn connect(&self) -> Result<Session, Gone> {
        let unreachable = |error: std::io::Error| Gone::Unreachable(error.to_string());
        let address = (self.parts.host.as_str(), self.parts.port);
        let mut stream = TcpStream::connect(address).await.map_err(unreachable)?;
        stream.set_nodelay(true).map_err(unreachable)?;
        if !self.parts.tls {
            return Ok(Session::new(Box::new(stream), None));
        }
        let mut out = BytesMut::new();
        put_ssl_request(&mut out);
        stream.write_all(&out).await.map_err(unreachable)?;
        if stream.read_u8().await.map_err(unreachable)? != b'S' {
            return Err(Gone::Broken("the front has no TLS, which the URL asks for".to_owned()));
        }
        let tls = client_config_bound_later().map_err(|error| Gone::Broken(error.to_string()))?;
        let name = ServerName::try_from(self.parts.host.clone())
            .map_err(|error| Gone::Unreachable(error.to_string()))?;
        let stream = TlsConnector::from(Arc::new(tls)).connect(name, stream).await.map_err(unreachable)?;
        let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let end_point = certificate.and_then(|certificate| EndPoint::of_certificate(certificate));
        let end_point = end_point
            .ok_or_else(|| Gone::Broken("the front's certificate has no channel binding".to_owned()))?;
        Ok(Session::new(Box::new(stream), Some(end_point)))
    }
}

async fn bounded<T>(work: impl Future<Output = Result<T, Gone>>) -> Result<T, Gone> {
    timeout(PATIENCE, work).await.unwrap_or(Err(Gone::Silent))
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// One connection to the front.
pub(crate) struct Session {
    stream: Box<dyn Stream>,
    end_point: Option<EndPoint>,
    inbox: BytesMut,
    /// The key that would cancel its statements.
    pub key: Option<CancelKey>,
}

impl Session {
    fn new(stream: Box<dyn Stream>, end_point: Option<EndPoint>) -> Self {
        Self { stream, end_point, inbox: BytesMut::new(), key: None }
    }

    /// Sends bytes as they are.
    pub async fn send(&mut self, bytes: &[u8]) -> Result<(), Gone> {
        let sent = async {
            self.stream.write_all(bytes).await.map_err(|_| Gone::Closed)?;
            self.stream.flush().await.map_err(|_| Gone::Closed)
        };
        bounded(sent).await
    }

    async fn next(&mut self) -> Result<Message, Gone> {
        let next = async {
            loop {
                let most = u32::try_from(BYTES_MAX).unwrap_or(u32::MAX);
                let read = read_message(&mut self.inbox, most);
                if let Some(message) = read.map_err(|error| Gone::Broken(error.to_string()))? {
                    return Ok(message);
                }
                if self.stream.read_buf(&mut self.inbox).await.unwrap_or(0) == 0 {
                    return Err(Gone::Closed);
                }
            }
        };
        bounded(next).await
    }

    async fn authenticate(&mut self, secret: &str, entropy: &dyn Entropy) -> Result<(), Gone> {
        let mut exchange = Exchange::None;
        loop {
            let message = self.next().await?;
            match message.tag {
                tag::AUTHENTICATION => self.answer_to(&message, secret, entropy, &mut exchange).await?,
                tag::ERROR_RESPONSE => {
                    let (code, text) =
                        parse_error(&message.body).map_err(|error| Gone::Broken(error.to_string()))?;
                    return Err(Gone::Refused(code, text));
                }
                tag::BACKEND_KEY_DATA => self.key = parse_backend_key_data(&message.body).ok(),
                tag::READY_FOR_QUERY => return Ok(()),
                _ => {}
            }
        }
    }

    async fn answer_to(
        &mut self,
        message: &Message,
        secret: &str,
        entropy: &dyn Entropy,
        exchange: &mut Exchange,
    ) -> Result<(), Gone> {
        let broken = |text: &str| Gone::Broken(text.to_owned());
        let asked = Authentication::from_body(&message.body).map_err(|error| broken(&error.to_string()))?;
        let mut out = BytesMut::new();
        match asked {
            Authentication::Ok => return Ok(()),
            Authentication::SaslFinal(last) => {
                let Exchange::Answered(seen) = std::mem::take(exchange) else {
                    return Err(broken("an exchange that was not begun"));
                };
                return seen.server_final(last).map_err(|error| broken(&error.to_string()));
            }
            Authentication::Sasl(_) => {
                let secret = Secret::new(secret.to_owned());
                let client = ScramClient::new(secret, self.end_point.clone(), entropy);
                let (name, first) = (client.mechanism().name(), client.first_message());
                frontend::put_sasl_initial_response(&mut out, name, first.as_bytes())
                    .map_err(|_| broken("a mechanism's name"))?;
                *exchange = Exchange::Begun(client);
            }
            Authentication::SaslContinue(first) => {
                let Exchange::Begun(client) = std::mem::take(exchange) else {
                    return Err(broken("an exchange that was not begun"));
                };
                let (seen, last) = client.server_first(first).map_err(|error| broken(&error.to_string()))?;
                *exchange = Exchange::Answered(seen);
                frontend::put_sasl_response(&mut out, last.as_bytes());
            }
            Authentication::CleartextPassword => {
                frontend::put_sasl_response(&mut out, &[secret.as_bytes(), b"\0"].concat());
            }
            Authentication::Other(_) => return Err(broken("another way to authenticate")),
        }
        self.send(&out).await
    }

    /// Runs a text as one message. A COPY that waits for rows gets these, and an
    /// end; without any it is broken off.
    pub async fn ask(&mut self, text: &str) -> Result<Answer, Gone> {
        self.ask_with(text, None).await
    }

    /// The same with rows for a COPY.
    pub async fn ask_with(&mut self, text: &str, rows: Option<&[u8]>) -> Result<Answer, Gone> {
        self.begin(text).await?;
        self.answer(rows).await
    }

    /// Sends a text as one message, and does not wait for its answer.
    pub async fn begin(&mut self, text: &str) -> Result<(), Gone> {
        let mut out = BytesMut::new();
        frontend::put_query(&mut out, text.as_bytes()).map_err(|error| Gone::Broken(error.to_string()))?;
        self.send(&out).await
    }

    /// The answer to the next text that was sent.
    pub async fn answer(&mut self, rows: Option<&[u8]>) -> Result<Answer, Gone> {
        let mut answer = Answer::default();
        loop {
            let message = self.next().await?;
            answer.take(&message)?;
            match message.tag {
                tag::READY_FOR_QUERY => return Ok(answer),
                tag::COPY_IN_RESPONSE | COPY_BOTH_RESPONSE => {
                    let mut out = BytesMut::new();
                    let end = if let Some(rows) = rows {
                        put(&mut out, frontend::tag::COPY_DATA, rows);
                        put(&mut out, frontend::tag::COPY_DONE, b"");
                        out
                    } else {
                        put(&mut out, frontend::tag::COPY_FAIL, b"no\0");
                        out
                    };
                    self.send(&end).await?;
                }
                _ => {}
            }
        }
    }

    /// Sends bytes and a last question behind them, reads until that is answered,
    /// leaves, and reads to the end. A front that hears of the leaving need not do
    /// what was asked before, so the leaving comes last.
    pub async fn say_and_ask(&mut self, bytes: &[u8]) -> Result<Answer, Gone> {
        let mut out = BytesMut::from(bytes);
        frontend::put_query(&mut out, LAST_QUESTION.as_bytes())
            .map_err(|error| Gone::Broken(error.to_string()))?;
        self.say(&out, QUIET).await
    }

    /// Sends bytes that are no session, reads until nothing comes any more, leaves,
    /// and reads to the end.
    pub async fn say_alone(&mut self, bytes: &[u8]) -> Result<Answer, Gone> {
        self.say(bytes, QUIET).await
    }

    /// Sends bytes that are answered by closing.
    pub async fn say_until_closed(&mut self, bytes: &[u8]) -> Result<Answer, Gone> {
        self.say(bytes, PATIENCE).await
    }

    /// What is no message is kept as it is.
    async fn say(&mut self, bytes: &[u8], quiet: Duration) -> Result<Answer, Gone> {
        // A front that has closed already has said what it had to say.
        let _ = self.send(bytes).await;
        let mut answer = Answer::default();
        let mut is_last = false;
        let is_over = loop {
            match timeout(quiet, self.next()).await {
                Ok(Ok(message)) => {
                    is_last |= message.body.windows(LAST_NAME.len()).any(|part| part == LAST_NAME);
                    answer.take(&message)?;
                    if is_last && message.tag == tag::READY_FOR_QUERY {
                        break false;
                    }
                }
                Ok(Err(Gone::Closed | Gone::Broken(_))) => break true,
                Ok(Err(gone)) => return Err(gone),
                Err(_) => break false,
            }
        };
        if !is_over {
            self.leave(&mut answer).await?;
        }
        answer.raw.extend_from_slice(&self.inbox);
        Ok(answer)
    }

    async fn leave(&mut self, answer: &mut Answer) -> Result<(), Gone> {
        let _ = bounded(async { self.stream.shutdown().await.map_err(|_| Gone::Closed) }).await;
        loop {
            match self.next().await {
                Ok(message) => answer.take(&message)?,
                Err(Gone::Closed | Gone::Broken(_)) => return Ok(()),
                Err(gone) => return Err(gone),
            }
        }
    }
}

/// Writes one message of any type and body.
pub(crate) fn put(out: &mut BytesMut, tag: u8, body: &[u8]) {
    let length = u32::try_from(body.len() + 4).unwrap_or(u32::MAX);
    out.extend_from_slice(&[tag]);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(body);
}
