//! A connection on which messages are exchanged one at a time: the time before
//! the relay. What was read but not used stays in the inbox and goes on to the
//! relay; what was written waits in the outbox until it is flushed.

use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use insula_pg_wire::startup::{StartupPacket, read_packet};
use insula_pg_wire::{Message, WireError, backend, read_message};
use thiserror::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::refusal::Refusal;
use crate::wire::Wire;

/// Bytes asked for in one read before the relay.
const READ_BYTES: usize = 2048;

/// What a client may send ahead while nobody listens to it.
const UNUSED_BYTES_MAX: usize = 16 * 1024;

/// How long a goodbye may take: the last error must reach the client, but
/// nobody waits for one that does not read.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(2);

/// Bytes that a client may still have under way while it is said goodbye to.
const GOODBYE_BYTES_MAX: usize = 64 * 1024;

/// Why no message came.
#[derive(Debug, Error)]
pub(crate) enum LinkError {
    /// The other side has closed the connection.
    #[error("the connection was closed")]
    Closed,
    /// The connection failed.
    #[error("the connection failed")]
    Io(#[from] io::Error),
    /// What came is no message.
    #[error(transparent)]
    Wire(#[from] WireError),
}

/// A connection on which messages are exchanged one at a time.
#[derive(Debug)]
pub(crate) struct Link {
    wire: Wire,
    inbox: BytesMut,
    outbox: BytesMut,
}

impl Link {
    pub fn new(wire: Wire) -> Self {
        Self { wire, inbox: BytesMut::new(), outbox: BytesMut::new() }
    }

    /// The bytes that were read and not used yet.
    pub fn inbox(&self) -> &[u8] {
        &self.inbox
    }

    /// The connection, when nothing is left in the inbox; otherwise the link
    /// as it was.
    pub fn into_wire(self) -> Result<Wire, Self> {
        if self.inbox.is_empty() && self.outbox.is_empty() { Ok(self.wire) } else { Err(self) }
    }

    /// Whether the connection is open, and nothing has come that was not read.
    pub fn is_quiet(&self) -> bool {
        self.inbox.is_empty() && self.wire.is_quiet()
    }

    /// The connection, to be used without the inbox and the outbox.
    pub fn wire(&mut self) -> &mut Wire {
        &mut self.wire
    }

    /// Takes the bytes that were read and not used yet.
    pub fn take_inbox(&mut self) -> BytesMut {
        std::mem::take(&mut self.inbox)
    }

    /// Writes into the outbox.
    pub fn put(&mut self, write: impl FnOnce(&mut BytesMut)) {
        write(&mut self.outbox);
    }

    /// Sends the outbox.
    pub async fn flush(&mut self) -> io::Result<()> {
        if !self.outbox.is_empty() {
            self.wire.write_all_buf(&mut self.outbox).await?;
        }
        self.wire.flush().await
    }

    /// Sends the outbox and waits for a startup packet.
    pub async fn startup_packet(&mut self) -> Result<StartupPacket, LinkError> {
        self.flush().await?;
        loop {
            if let Some(packet) = read_packet(&mut self.inbox)? {
                return Ok(packet);
            }
            self.fill().await?;
        }
    }

    /// Sends the outbox and waits for a message with a body of at most so many
    /// bytes.
    pub async fn message(&mut self, body_bytes_max: u32) -> Result<Message, LinkError> {
        self.flush().await?;
        loop {
            if let Some(message) = read_message(&mut self.inbox, body_bytes_max)? {
                return Ok(message);
            }
            self.fill().await?;
        }
    }

    /// Waits for one byte that is no message: the answer to a request for TLS.
    pub async fn byte(&mut self) -> Result<u8, LinkError> {
        self.flush().await?;
        if self.inbox.is_empty() {
            self.fill().await?;
        }
        Ok(self.inbox.split_to(1)[0])
    }

    /// Waits until the other side has left. What it sends before stays in the
    /// inbox, up to a bound, behind which it is not seen leaving.
    pub async fn left(&mut self) {
        while self.inbox.len() < UNUSED_BYTES_MAX {
            if self.fill().await.is_err() {
                return;
            }
        }
        std::future::pending().await
    }

    async fn fill(&mut self) -> Result<(), LinkError> {
        self.inbox.reserve(READ_BYTES);
        match self.wire.read_buf(&mut self.inbox).await? {
            0 => Err(LinkError::Closed),
            _ => Ok(()),
        }
    }

    /// Turns the client away, and closes.
    pub async fn refuse(&mut self, refusal: &Refusal) {
        self.put(|out| backend::put_error(out, &refusal.fields()));
        self.close().await;
    }

    /// Sends bytes of another protocol as the last thing, and closes.
    pub async fn answer_foreign(&mut self, answer: Bytes) {
        self.put(|out| out.extend_from_slice(&answer));
        self.close().await;
    }

    /// Sends the outbox and closes so that the other side can read it: a
    /// connection that is dropped with bytes unread is reset, and the reset may
    /// overtake the last message.
    pub async fn close(&mut self) {
        let goodbye = async {
            self.flush().await?;
            self.wire.shutdown().await?;
            let mut unread = [0; 1024];
            let mut rest = GOODBYE_BYTES_MAX;
            while rest > 0 {
                match self.wire.read(&mut unread).await? {
                    0 => break,
                    count => rest = rest.saturating_sub(count),
                }
            }
            io::Result::Ok(())
        };
        // Whoever is gone already needs no goodbye.
        let _ = timeout(GOODBYE_TIMEOUT, goodbye).await;
    }

    /// Waits until the other side closes, reading away what still comes, up to
    /// so many bytes.
    pub async fn drain(&mut self, bytes_max: usize) {
        let mut unread = [0; 4096];
        let mut rest = bytes_max;
        while rest > 0 {
            match self.wire.read(&mut unread).await {
                Ok(0) | Err(_) => return,
                Ok(count) => rest = rest.saturating_sub(count),
            }
        }
    }

    /// Closes the writing half.
    pub async fn shutdown(&mut self) -> io::Result<()> {
        self.flush().await?;
        self.wire.shutdown().await
    }
}
