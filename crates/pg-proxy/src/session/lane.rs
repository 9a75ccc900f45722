//! One direction of a relay: bytes come in, are cut into messages, and go out.
//! Both buffers are bounded, so that a side that does not read stops the side
//! that writes; both are empty while nothing is on its way, and given back where
//! they are large.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, BytesMut};
use insula_pg_wire::frontend::tag::TERMINATE;
use insula_pg_wire::{Handling, Header, Scanner, Step, WireError};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::guard::Rule;
use crate::wire::Wire;

/// Bytes of one read.
const READ_BYTES: usize = 16 * 1024;

/// No more is read while so many bytes wait to go out.
const WAITING_BYTES_MAX: usize = 64 * 1024;

/// A buffer of so much stays with a lane that is empty: most questions and
/// answers fit, and need no other.
const KEPT_BYTES: usize = 512;

/// Why nothing more may pass.
#[derive(Debug)]
pub(super) enum Stopped {
    /// What came is no message.
    Broken(WireError),
    /// The message that is passing must not reach its end.
    Refused(&'static Rule),
}

impl From<WireError> for Stopped {
    fn from(error: WireError) -> Self {
        Self::Broken(error)
    }
}

/// Sees the messages of a lane as they pass.
pub(super) trait Watcher {
    /// A message begins.
    fn begins(&mut self, header: Header) -> Handling;

    /// Whether it cannot be said yet what goes out for a message that was held,
    /// or for its beginning: it is asked again when the lane is cut the next time.
    fn has_to_wait(&self, header: Header, message: &[u8]) -> bool;

    /// A message that was held is whole, its header included; writes what goes
    /// out for it.
    fn whole(&mut self, header: Header, message: &[u8], out: &mut BytesMut) -> Result<(), WireError>;

    /// The beginning of a message that was asked for, its header included;
    /// writes what goes out for it. With the type of the message behind it, where
    /// that has come.
    fn beginning(
        &mut self,
        header: Header,
        beginning: (&[u8], Option<u8>),
        out: &mut BytesMut,
    ) -> Result<(), WireError>;

    /// A piece of a message that is watched is about to pass.
    fn piece(&mut self, piece: &[u8], is_last: bool) -> Result<(), Stopped>;

    /// Nothing more is to be cut for now.
    fn waits(&self) -> bool;

    /// Nor is the message that begins now.
    fn stops(&self) -> bool {
        false
    }
}

/// One direction of a relay.
#[derive(Debug, Default)]
pub(super) struct Lane {
    /// Read, and not cut into messages yet: less than a held message.
    incoming: BytesMut,
    /// To be written.
    outgoing: BytesMut,
    scanner: Scanner,
    /// What is cut off next, and has to wait.
    waiting: Option<Step>,
    unflushed: bool,
}

impl Lane {
    /// A lane that begins with what was read before.
    pub fn new(incoming: BytesMut) -> Self {
        Self { incoming, ..Self::default() }
    }

    /// Whether there is room to read more.
    pub fn has_room(&self) -> bool {
        self.outgoing.len() < WAITING_BYTES_MAX && self.waiting.is_none()
    }

    /// Little waits to be cut.
    pub fn has_little_to_cut(&self) -> bool {
        self.incoming.len() < WAITING_BYTES_MAX
    }

    /// Nothing is on its way, and the last message has passed whole.
    pub fn is_empty(&self) -> bool {
        self.incoming.is_empty() && self.outgoing.is_empty() && self.scanner.is_between_messages()
    }

    /// Nothing waits to go out, and what was read stands between two messages:
    /// what goes on with the next may go another way.
    pub fn is_at_a_bound(&self) -> bool {
        self.outgoing.is_empty() && self.scanner.is_between_messages() && self.waiting.is_none()
    }

    /// Everything that was read has been cut into messages, and stands between
    /// two of them.
    pub fn has_all_cut(&self) -> bool {
        self.incoming.is_empty() && self.scanner.is_between_messages()
    }

    /// Nothing is on its way, and of the next message not even the header has
    /// come whole.
    pub fn awaits_message(&self) -> bool {
        self.is_at_a_bound() && self.next_tag().is_none()
    }

    /// The type of the message that comes next, where its header is here whole:
    /// with less there is nothing to be done yet.
    pub fn next_tag(&self) -> Option<u8> {
        self.incoming.first().copied().filter(|_| self.incoming.len() >= Header::BYTES)
    }

    /// Whether the client has said that it leaves, behind whatever else has come
    /// and is not cut yet. To be asked only between two messages.
    pub fn has_goodbye(&self) -> bool {
        let mut rest = &self.incoming[..];
        while let Ok(Some(header)) = Header::parse(rest) {
            if header.tag == TERMINATE {
                return true;
            }
            let Some(next) = rest.get(header.message_bytes()..) else { return false };
            rest = next;
        }
        false
    }

    /// Writes at the end of what goes out.
    pub fn put(&mut self, write: impl FnOnce(&mut BytesMut)) {
        write(&mut self.outgoing);
    }

    /// Everything that may go out has gone out.
    pub fn is_drained(&self) -> bool {
        self.outgoing.is_empty() && !self.unflushed
    }

    /// A message may be put at the end of what goes out.
    pub fn is_between_messages(&self) -> bool {
        self.scanner.is_between_messages()
    }

    /// Nobody takes what is to go out. Gives how many bytes that was.
    pub fn discard(&mut self) -> usize {
        self.unflushed = false;
        self.take_outgoing().len()
    }

    /// Takes what still is to go out.
    pub fn take_outgoing(&mut self) -> BytesMut {
        self.outgoing.split()
    }

    /// Reads once; 0 is the end of the stream. The bytes go through the stack,
    /// so that a session that waits holds no large buffer.
    pub fn poll_read(&mut self, context: &mut Context<'_>, wire: &mut Wire) -> Poll<io::Result<usize>> {
        let mut scratch = [MaybeUninit::uninit(); READ_BYTES];
        let mut buffer = ReadBuf::uninit(&mut scratch);
        match Pin::new(wire).poll_read(context, &mut buffer) {
            Poll::Ready(Ok(())) => {
                self.incoming.extend_from_slice(buffer.filled());
                Poll::Ready(Ok(buffer.filled().len()))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => Poll::Pending,
        }
    }

    /// Cuts what was read into messages, which the watcher sees.
    pub fn cut(&mut self, watcher: &mut impl Watcher) -> Result<(), Stopped> {
        loop {
            if watcher.stops() && self.scanner.is_between_messages() && self.waiting.is_none() {
                break;
            }
            let step = match self.waiting.take() {
                Some(step) => step,
                None => self.scanner.step(&self.incoming, |header| watcher.begins(header))?,
            };
            if let Step::Whole(header) | Step::Beginning { header, .. } = step
                && watcher.has_to_wait(header, &self.incoming)
            {
                self.waiting = Some(step);
                break;
            }
            match step {
                Step::Pass(count) if count == self.incoming.len() && self.outgoing.is_empty() => {
                    std::mem::swap(&mut self.incoming, &mut self.outgoing);
                }
                Step::Pass(count) => {
                    self.outgoing.extend_from_slice(&self.incoming[..count]);
                    self.incoming.advance(count);
                }
                Step::Whole(header) => {
                    let count = header.message_bytes();
                    watcher.whole(header, &self.incoming[..count], &mut self.outgoing)?;
                    self.incoming.advance(count);
                }
                Step::Beginning { header, count } => {
                    let next = self.incoming.get(header.message_bytes()).copied();
                    watcher.beginning(header, (&self.incoming[..count], next), &mut self.outgoing)?;
                    self.incoming.advance(count);
                    if watcher.waits() {
                        break;
                    }
                }
                Step::Watched { count, is_last } => {
                    watcher.piece(&self.incoming[..count], is_last)?;
                    self.outgoing.extend_from_slice(&self.incoming[..count]);
                    self.incoming.advance(count);
                }
                Step::NeedMore => break,
            }
        }
        if self.incoming.is_empty() {
            let_go(&mut self.incoming);
        }
        Ok(())
    }

    /// Writes once, or flushes where all is written. `None` where there is
    /// nothing to do.
    pub fn poll_write(&mut self, context: &mut Context<'_>, wire: &mut Wire) -> Poll<io::Result<usize>> {
        if !self.outgoing.is_empty() {
            return match Pin::new(wire).poll_write(context, &self.outgoing) {
                Poll::Ready(Ok(0)) => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(count)) => {
                    self.outgoing.advance(count);
                    self.unflushed = true;
                    if self.outgoing.is_empty() {
                        let_go(&mut self.outgoing);
                    }
                    Poll::Ready(Ok(count))
                }
                Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
                Poll::Pending => Poll::Pending,
            };
        }
        if !self.unflushed {
            return Poll::Pending;
        }
        match Pin::new(wire).poll_flush(context) {
            Poll::Ready(Ok(())) => {
                self.unflushed = false;
                Poll::Ready(Ok(0))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => Poll::Pending,
        }
    }
}

/// The same without a connection.
#[cfg(any(test, feature = "fuzz"))]
impl Lane {
    /// These bytes have come.
    pub fn read(&mut self, bytes: &[u8]) {
        self.incoming.extend_from_slice(bytes);
    }

    /// How many bytes are to go out.
    pub fn outgoing_bytes(&self) -> usize {
        self.outgoing.len()
    }

    /// So many go out.
    pub fn write(&mut self, count: usize) -> BytesMut {
        self.outgoing.split_to(count)
    }
}

/// Gives an empty buffer back, where it is large.
fn let_go(buffer: &mut BytesMut) {
    buffer.clear();
    if buffer.try_reclaim(KEPT_BYTES + 1) {
        *buffer = BytesMut::new();
    }
}
