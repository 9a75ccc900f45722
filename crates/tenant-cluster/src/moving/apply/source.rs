//! The applier's connection to the source: changes and keepalives come, and
//! how far they are safe at the target goes back, up to where the source's log
//! need not be kept. Source: PostgreSQL's manual, "Streaming Replication Protocol".

use bytes::{Buf, BufMut, Bytes};
use insula_pg_wire::Message;
use insula_pg_wire::backend::tag;
use tokio::time::{Duration, Instant, sleep, timeout};

use super::super::pgoutput::{Change, Part, Reader};
use super::super::slots::replication;
use super::super::wire::{Wire, WireFault, server_error};
use super::super::{Lsn, MovedTable, Place, StreamName};
use super::entry::Entry;
use super::fault::StreamFault;
use super::layout::Layout;
use super::messages::put_message;

/// How long a former reader is waited for to be gone.
const FENCE_WITHIN: Duration = Duration::from_secs(5);

/// The pause from one look to the next.
const PAUSE: Duration = Duration::from_millis(20);

/// After so long without a word the server is asked for one.
const QUIET: Duration = Duration::from_secs(10);

/// After so long without a word it is away.
const DEAD: Duration = Duration::from_secs(60);

/// How long the server may take to close a stream that has ended.
const END_WITHIN: Duration = Duration::from_secs(2);

/// What comes.
#[derive(Debug)]
pub(super) enum Incoming {
    /// A change, and of which transaction it is where that is still running.
    Change(Option<Part>, Change),
    /// All that was committed before this place in the log has come.
    Sent { end: Lsn, reply: bool },
}

/// The connection.
#[derive(Debug)]
pub(super) struct Source {
    wire: Wire,
    /// The end of what was received.
    pub received: Lsn,
    /// Where the source's log ended, as far as it has said.
    pub end: Lsn,
    reader: Reader,
    heard: Instant,
    reported: Instant,
}

/// Whether large transactions are to come while they run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Chunks<'a> {
    /// The decoder sends chunks where it has more changes than this in its
    /// memory, in kilobytes.
    pub above_kb: u32,
    /// None come for now.
    pub is_held: bool,
    /// None come until all before this place is applied.
    pub not_before: Lsn,
    /// Whose transactions are left out.
    pub left_out: &'a [StreamName],
}

/// A connection that was opened.
#[derive(Debug)]
pub(super) struct Opened {
    pub source: Source,
    pub layout: Layout,
    /// Where the stream begins.
    pub from: Lsn,
    /// Transactions come whole, until all before this is applied; none where
    /// large ones come in chunks.
    pub whole_until: Option<Lsn>,
}

impl Source {
    /// Begins to read the stream behind what was applied, as its only reader. One
    /// that comes back knows how far it was: nobody else says of the slot that
    /// more is safe, so that one which is further on is another slot, and what was
    /// committed in between does not come.
    pub async fn open(
        place: &Place,
        name: StreamName,
        tables: &[MovedTable],
        (applied, known): (Option<Lsn>, Lsn),
        entry: &mut Entry,
        chunks: Chunks<'_>,
    ) -> Result<Opened, StreamFault> {
        let mut wire = replication(place, &name.to_string()).await?;
        entry.note(wire.pid());
        let layout = Layout::read(&mut wire, place, tables).await?;
        let until = Instant::now() + FENCE_WITHIN;
        let (from, whole_until) = loop {
            let confirmed = fence(&mut wire, name, entry).await?;
            if !entry.takes_over && confirmed > known {
                return Err(StreamFault::SlotLost(format!(
                    "it is at {confirmed}, and only what is before {known} is applied"
                )));
            }
            let from = applied.unwrap_or(Lsn::from(0)).max(confirmed).max(known);
            let whole_until = whole_until(&mut wire, from, chunks).await?;
            let streaming = if whole_until.is_some() { "" } else { ", streaming 'on'" };
            let start = format!(
                "START_REPLICATION SLOT {name} LOGICAL {from} \
                 (proto_version '2', publication_names '{name}', messages 'true'{streaming})"
            );
            match wire.copy_both(&start).await {
                Ok(()) => break (from, whole_until),
                Err(fault) if fault.sqlstate() == Some("55006") && Instant::now() < until => {
                    // The server ends its answer before it takes the next command.
                    wire.answer().await?;
                    sleep(PAUSE).await;
                }
                // The server has given up the log that the slot needs.
                Err(fault) if fault.sqlstate() == Some("55000") => {
                    return Err(StreamFault::SlotLost(fault.to_string()));
                }
                Err(fault) => return Err(fault.into()),
            }
        };
        let (reader, now) = (Reader::default(), Instant::now());
        let source = Self { wire, received: from, end: from, reader, heard: now, reported: now };
        Ok(Opened { source, layout, from, whole_until })
    }

    /// Whether something is here already.
    pub fn has_message(&self) -> bool {
        self.wire.has_message()
    }

    /// The next that comes. May be dropped and asked again without a loss.
    pub async fn next(&mut self) -> Result<Incoming, StreamFault> {
        loop {
            let message = self.wire.message().await?;
            self.heard = Instant::now();
            if let Some(incoming) = self.read(message)? {
                return Ok(incoming);
            }
        }
    }

    /// Says how far the stream is safe at the target.
    pub async fn report(&mut self, safe: Lsn, ask: bool) -> Result<(), StreamFault> {
        self.reported = Instant::now();
        let quiet = self.heard.elapsed();
        let received = self.received.max(safe);
        put_message(self.wire.out(), b'd', |out| {
            out.put_u8(b'r');
            out.put_u64(received.into());
            out.put_u64(safe.into());
            out.put_u64(safe.into());
            out.put_i64(0); // the time here, of which the server makes no use
            out.put_u8(u8::from(ask || quiet > QUIET));
        });
        Ok(self.wire.flush().await?)
    }

    /// How long ago it was told last how far the stream is.
    pub fn unreported(&self) -> Duration {
        self.reported.elapsed()
    }

    /// Whether the source still says something, where it was listened to.
    pub fn is_there(&mut self, listening: bool) -> Result<(), StreamFault> {
        if !listening {
            self.heard = Instant::now();
        }
        if self.heard.elapsed() > DEAD {
            return Err(StreamFault::Away("the source says nothing any more".to_owned()));
        }
        Ok(())
    }

    /// Ends the stream, and waits for the server to have taken note: who closes
    /// a socket with something unread in it resets the connection, and the last
    /// report may be lost.
    pub async fn end(mut self) {
        put_message(self.wire.out(), b'c', |_| ());
        put_message(self.wire.out(), b'X', |_| ());
        let rest = async { while self.wire.message().await.is_ok() {} };
        // Whatever comes of it, the connection ends.
        let _ = timeout(END_WITHIN, rest).await;
    }

    fn read(&mut self, message: Message) -> Result<Option<Incoming>, StreamFault> {
        let mut body = match message.tag {
            b'd' => message.body,
            tag::ERROR_RESPONSE => {
                let error = server_error(&message.body).map_err(WireFault::from)?;
                // The publication is gone (42704), or the log is (58P01).
                return Err(match error.sqlstate.as_str() {
                    "42704" | "58P01" => StreamFault::SlotLost(error.message),
                    _ => WireFault::Server(error).into(),
                });
            }
            tag::NOTICE_RESPONSE | tag::PARAMETER_STATUS => return Ok(None),
            b'c' => return Err(StreamFault::Away("the source has ended the stream".to_owned())),
            other => return Err(WireFault::OutOfPlace(char::from(other)).into()),
        };
        match take_u8(&mut body)? {
            b'w' => {
                let (start, end) = (take_lsn(&mut body)?, take_lsn(&mut body)?);
                take_lsn(&mut body)?; // the time there
                self.received = self.received.max(start);
                self.end = self.end.max(end);
                let (part, change) = self.reader.read(body)?;
                Ok(Some(Incoming::Change(part, change)))
            }
            b'k' => {
                let end = take_lsn(&mut body)?;
                take_lsn(&mut body)?; // the time there
                self.received = self.received.max(end);
                self.end = self.end.max(end);
                Ok(Some(Incoming::Sent { end, reply: take_u8(&mut body)? == 1 }))
            }
            other => Err(WireFault::OutOfPlace(char::from(other)).into()),
        }
    }
}

/// Up to where transactions are to come whole from a place on; none where large
/// ones may come in chunks, for which the decoder is made ready.
async fn whole_until(wire: &mut Wire, from: Lsn, chunks: Chunks<'_>) -> Result<Option<Lsn>, StreamFault> {
    if chunks.is_held {
        return Ok(Some(Lsn::from(u64::from(from) + 1)));
    }
    if chunks.not_before > from {
        return Ok(Some(chunks.not_before));
    }
    let left_out = left_out_until(wire, chunks.left_out).await?;
    if left_out.is_some_and(|until| until > from) {
        return Ok(left_out);
    }
    wire.simple(&format!("set logical_decoding_work_mem = {}", chunks.above_kb)).await?;
    Ok(None)
}

/// Up to where in the source's log there are transactions that were applied
/// there under one of these names. Whose a transaction is stands in the record of
/// its commit, and not in its chunks: PostgreSQL takes that of their first change
/// for it, which has none where it is of the catalogs, as that of a `TRUNCATE` is
/// (`ReorderBufferProcessTXN` in
/// `src/backend/replication/logical/reorderbuffer.c`). Where the last one is in
/// its own log a server forgets when it starts again.
async fn left_out_until(wire: &mut Wire, names: &[StreamName]) -> Result<Option<Lsn>, StreamFault> {
    if names.is_empty() {
        return Ok(None);
    }
    let listed: Vec<String> = names.iter().map(|name| format!("'{name}'")).collect();
    let rows = wire
        .simple(&format!(
            "select max(case when local_lsn > '0/0' then local_lsn else 'FFFFFFFF/FFFFFFFF' end)
             from pg_replication_origin_status where external_id in ({}) and remote_lsn > '0/0'",
            listed.join(", ")
        ))
        .await?;
    let until = rows.into_iter().flatten().flatten().next();
    until
        .map(|until| until.parse().map_err(|_| StreamFault::Refused("a place is not read".to_owned())))
        .transpose()
}

/// Whether nothing is behind a place of the source's log that is to be left out.
/// An origin is as far as the record of a commit says before anybody is sent the
/// commit.
pub(super) async fn has_none_left_out(
    place: &Place,
    names: &[StreamName],
    from: Lsn,
) -> Result<bool, StreamFault> {
    if names.is_empty() {
        return Ok(true);
    }
    let dial = place.access.dial(&place.placement.database);
    let mut wire = Wire::open(&dial, &[]).await?;
    let until = left_out_until(&mut wire, names).await?;
    Ok(until.is_none_or(|until| until <= from))
}

/// Ends another reader of the slot, or finds that there is one; up to where the
/// slot's reader has had everything.
async fn fence(wire: &mut Wire, name: StreamName, entry: &Entry) -> Result<Lsn, StreamFault> {
    let rows = wire
        .simple(&format!(
            "select active_pid, confirmed_flush_lsn from pg_replication_slots where slot_name = '{name}'"
        ))
        .await?;
    let Some(row) = rows.into_iter().next() else {
        return Err(StreamFault::SlotLost("there is no such slot".to_owned()));
    };
    let pid = row.first().cloned().flatten().and_then(|pid| pid.parse::<i32>().ok());
    match pid {
        Some(pid) if entry.takes_over || entry.was(pid) => {
            wire.simple(&format!("select pg_terminate_backend({pid}, 5000)")).await?;
        }
        Some(_) => return Err(StreamFault::Superseded),
        None => {}
    }
    let confirmed = row.get(1).cloned().flatten().and_then(|lsn| lsn.parse().ok());
    confirmed.ok_or_else(|| StreamFault::SlotLost("the slot has no position".to_owned()))
}

fn take_u8(body: &mut Bytes) -> Result<u8, StreamFault> {
    body.try_get_u8().map_err(|_| StreamFault::Refused("a message of the source is short".to_owned()))
}

fn take_lsn(body: &mut Bytes) -> Result<Lsn, StreamFault> {
    let lsn = body.try_get_u64().map(Lsn::from);
    lsn.map_err(|_| StreamFault::Refused("a message of the source is short".to_owned()))
}
