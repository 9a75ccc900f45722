//! A connection in PostgreSQL's own protocol, for what the driver cannot do:
//! replication commands with their stream in both directions, and statements
//! one behind the other without a `Sync` each. The crates for this bring what
//! is not wanted here: pgwire-replication 0.5 ring as soon as it has TLS, and
//! pg_walstream 0.9 chrono. Source: PostgreSQL's manual, chapters
//! "Frontend/Backend Protocol" and "Streaming Replication Protocol".

mod dial;

use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use bytes::{Buf, Bytes, BytesMut};
use insula_pg_wire::backend::{error_fields, tag};
use insula_pg_wire::{Message, NulInText, WireError, frontend, read_message};
use insula_problem::{Code, Problem};
use insula_sql_store::Report;
use thiserror::Error;
use tokio::io::{AsyncReadExt, AsyncWrite};

/// The longest message: PostgreSQL makes none longer than 1 GiB.
const MESSAGE_BYTES_MAX: u32 = 1 << 30;

/// How much is asked of the socket at a time, in bytes.
const READ_BYTES: usize = 64 * 1024;

/// Either kind of socket, with TLS or without.
trait Duplex: tokio::io::AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: tokio::io::AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// A connection that has been let in.
pub(super) struct Wire {
    stream: Box<dyn Duplex>,
    input: BytesMut,
    output: BytesMut,
    unflushed: bool,
    pid: i32,
}

/// What a server says of an error.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct ServerError {
    pub sqlstate: String,
    /// Its words, without values of rows.
    pub message: String,
    pub table: String,
}

/// Why a connection is of no more use.
#[derive(Debug, Error)]
pub(super) enum WireFault {
    #[error("the server cannot be reached")]
    Io(#[from] io::Error),
    #[error("no answer in time")]
    TimedOut,
    #[error("the server does not speak the protocol")]
    Protocol(#[from] WireError),
    #[error("a text holds a zero byte")]
    Nul(#[from] NulInText),
    #[error("the server asks for a proof of who we are that is not known: {0}")]
    Authentication(String),
    #[error("the server has sent {0:?} out of place")]
    OutOfPlace(char),
    #[error("the server refuses: {} {}", .0.sqlstate, .0.message)]
    Server(ServerError),
}

impl WireFault {
    /// Whether the server is away or has ended the connection, so that another
    /// try may succeed (classes 08, 53, 57P, 58).
    pub fn is_away(&self) -> bool {
        match self {
            Self::Io(_) | Self::TimedOut => true,
            Self::Server(error) => {
                ["08", "53", "57P", "58"].iter().any(|class| error.sqlstate.starts_with(class))
            }
            _ => false,
        }
    }

    /// The SQLSTATE, where the server has said one.
    pub fn sqlstate(&self) -> Option<&str> {
        match self {
            Self::Server(error) => Some(&error.sqlstate),
            _ => None,
        }
    }
}

/// The problem that a fault of a cluster's connection is.
pub(super) fn wire_problem(fault: WireFault) -> Problem {
    if fault.is_away() {
        return Problem::new(Code::PlacementUnavailable, "The tenant cluster cannot be reached right now.")
            .retry_after(2)
            .caused_by(fault);
    }
    Problem::internal(fault)
}

/// A row of an answer to a simple query: each value as text.
pub(super) type TextRow = Vec<Option<String>>;

impl Wire {
    /// The server's process that serves the connection.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// What is written here goes out as the connection is used.
    pub fn out(&mut self) -> &mut BytesMut {
        &mut self.output
    }

    /// Whether a whole message is here already.
    pub fn has_message(&self) -> bool {
        insula_pg_wire::Header::parse(&self.input)
            .is_ok_and(|header| header.is_some_and(|header| self.input.len() >= header.message_bytes()))
    }

    /// The next message. Sends what is to be sent meanwhile. May be dropped and
    /// asked again without a loss.
    pub async fn message(&mut self) -> Result<Message, WireFault> {
        loop {
            if let Some(message) = read_message(&mut self.input, MESSAGE_BYTES_MAX)? {
                return Ok(message);
            }
            poll_fn(|context| self.poll_turn(context)).await?;
        }
    }

    /// Sends all that is to be sent, and takes in what comes meanwhile, so that
    /// neither end waits for the other.
    pub async fn flush(&mut self) -> Result<(), WireFault> {
        while !self.output.is_empty() || self.unflushed {
            poll_fn(|context| match self.poll_write(context) {
                Poll::Pending => self.poll_turn(context),
                written => written,
            })
            .await?;
        }
        Ok(())
    }

    /// Runs statements and gives the rows of all of them.
    pub async fn simple(&mut self, sql: &str) -> Result<Vec<TextRow>, WireFault> {
        frontend::put_query(&mut self.output, sql.as_bytes())?;
        self.answer().await
    }

    /// The rows up to the end of an answer.
    pub async fn answer(&mut self) -> Result<Vec<TextRow>, WireFault> {
        let (mut rows, mut failed) = (Vec::new(), None);
        loop {
            let message = self.message().await?;
            match message.tag {
                tag::DATA_ROW => rows.push(text_row(message.body)?),
                tag::ERROR_RESPONSE => failed = Some(server_error(&message.body)?),
                tag::READY_FOR_QUERY => {
                    return failed.map_or(Ok(rows), |error| Err(WireFault::Server(error)));
                }
                _ => {}
            }
        }
    }

    /// Begins a stream in both directions.
    pub async fn copy_both(&mut self, command: &str) -> Result<(), WireFault> {
        frontend::put_query(&mut self.output, command.as_bytes())?;
        loop {
            let message = self.message().await?;
            match message.tag {
                b'W' => return Ok(()),
                tag::NOTICE_RESPONSE | tag::PARAMETER_STATUS => {}
                tag::ERROR_RESPONSE => return Err(WireFault::Server(server_error(&message.body)?)),
                other => return Err(WireFault::OutOfPlace(char::from(other))),
            }
        }
    }

    /// Reads what there is and writes what can be; ready when something was read.
    fn poll_turn(&mut self, context: &mut Context<'_>) -> Poll<Result<(), WireFault>> {
        if let Poll::Ready(Err(error)) = self.poll_write(context) {
            return Poll::Ready(Err(error));
        }
        self.input.reserve(READ_BYTES);
        let read = pin!(self.stream.read_buf(&mut self.input)).poll(context);
        read.map(|read| match read {
            Ok(0) => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            Ok(_) => Ok(()),
            Err(error) => Err(error.into()),
        })
    }

    /// Ready when there is nothing left to write.
    fn poll_write(&mut self, context: &mut Context<'_>) -> Poll<Result<(), WireFault>> {
        while !self.output.is_empty() {
            match Pin::new(&mut self.stream).poll_write(context, &self.output) {
                Poll::Ready(Ok(0)) => {
                    return Poll::Ready(Err(io::Error::from(io::ErrorKind::WriteZero).into()));
                }
                Poll::Ready(Ok(written)) => {
                    self.output.advance(written);
                    self.unflushed = true;
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error.into())),
                Poll::Pending => return Poll::Pending,
            }
        }
        if self.unflushed {
            match Pin::new(&mut self.stream).poll_flush(context) {
                Poll::Ready(Ok(())) => self.unflushed = false,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error.into())),
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl std::fmt::Debug for Wire {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Wire(process {})", self.pid)
    }
}

/// The wanted fields of an `ErrorResponse`.
pub(super) fn server_error(body: &[u8]) -> Result<ServerError, WireError> {
    let texts: Vec<_> = error_fields(body)?
        .into_iter()
        .map(|(field, value)| (field, String::from_utf8_lossy(value)))
        .collect();
    let fields: Vec<(u8, &str)> = texts.iter().map(|(field, value)| (*field, &**value)).collect();
    let report = Report::from(&fields[..]);
    Ok(ServerError {
        sqlstate: report.sqlstate.to_owned(),
        message: report.in_words(),
        table: report.of_table().unwrap_or_default().to_owned(),
    })
}

fn text_row(mut body: Bytes) -> Result<TextRow, WireError> {
    const SHORT: WireError = WireError::Malformed("a row ends too early");
    let count = body.try_get_u16().map_err(|_| SHORT)?;
    let mut row = Vec::with_capacity(usize::from(count));
    for _ in 0..count {
        let length = body.try_get_i32().map_err(|_| SHORT)?;
        let Ok(length) = usize::try_from(length) else {
            row.push(None);
            continue;
        };
        if body.len() < length {
            return Err(SHORT);
        }
        row.push(Some(String::from_utf8_lossy(&body.split_to(length)).into_owned()));
    }
    Ok(row)
}
