//! Makes a tenant's statements fit the database that it shares with others: the
//! tables of a pool, and names of notification channels. The places in the
//! server's errors are given back as places in the client's own text.

use std::sync::Arc;

use bytes::BytesMut;
use insula_domain::TenantId;
use insula_pg_wire::backend::{Notification, error_fields, put_error_fields};
use insula_pg_wire::frontend::put_text;
use insula_pool_sql::{Edits, Keys, Settings, Shifts, may_have_group};
use insula_route_map::RouteMap;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::channels::Channels;
use crate::counter::{Counter, Place};

/// Longer texts are not changed.
pub(crate) const TEXT_BYTES_MAX: u32 = 16 * 1024 * 1024;

/// Memory for long texts of all sessions, in KiB.
const LONG_TEXTS_KIB: usize = 256 * 1024;

/// Long texts of one tenant at the same time.
const LONG_TEXTS_OF_TENANT: u32 = 4;

/// SQLSTATE of a list behind `ON CONFLICT` to which there is no index.
const NO_SUCH_INDEX: &[u8] = b"42P10";

/// What may be done about it where a text was too long.
const TOO_LONG: &str = "In a pool, ON CONFLICT finds its index by itself in texts of up to 16 MiB, and in four long \
                        ones at a time. Send fewer rows at once, or write ON CONFLICT (tenant_id, ...).";

/// Fields of an error.
const SQLSTATE: u8 = b'C';
const HINT: u8 = b'H';
const POSITION: u8 = b'P';

/// Room for texts that are too long to be held by every session.
#[derive(Debug, Clone)]
pub(crate) struct LongTexts {
    room: Arc<Semaphore>,
    tenants: Arc<Counter<TenantId>>,
}

impl Default for LongTexts {
    fn default() -> Self {
        Self { room: Arc::new(Semaphore::new(LONG_TEXTS_KIB)), tenants: Arc::default() }
    }
}

/// Room that is taken, given back when dropped.
#[derive(Debug)]
pub(crate) struct Room {
    _memory: OwnedSemaphorePermit,
    _place: Place<TenantId>,
}

impl LongTexts {
    /// Room for a text as it comes in and as it goes out.
    fn take(&self, tenant: TenantId, bytes: u32) -> Option<Room> {
        let kib = 2 * bytes.div_ceil(1024);
        let place = self.tenants.take(&tenant, Some(LONG_TEXTS_OF_TENANT)).ok()?;
        let memory = Arc::clone(&self.room).try_acquire_many_owned(kib).ok()?;
        Some(Room { _memory: memory, _place: place })
    }
}

/// What the server takes the session's bytes for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Encoding {
    Utf8,
    /// Another one in which ASCII bytes are ASCII characters.
    Plain,
    /// One in which they may be parts of others.
    Mixed,
}

impl Encoding {
    /// By PostgreSQL's name for it (its manual, section 24.3).
    fn named(name: &[u8]) -> Self {
        match name {
            b"UTF8" => Self::Utf8,
            b"SJIS" | b"SHIFT_JIS_2004" | b"BIG5" | b"GBK" | b"UHC" | b"GB18030" | b"JOHAB" => Self::Mixed,
            _ => Self::Plain,
        }
    }
}

/// The texts that the client has sent since nothing was under way.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Sent {
    /// So many, all unchanged.
    Unchanged(usize),
    /// One, which was changed.
    Changed(Shifts),
    /// Several with a changed one among them, or one whose characters cannot be
    /// counted.
    Unclear,
}

/// The tables of a pool, as a session's statements meet them.
#[derive(Debug)]
pub(crate) struct SharedTables {
    tenant: TenantId,
    long_texts: LongTexts,
    /// Knows the keys of the tables.
    routes: Arc<RouteMap>,
}

impl SharedTables {
    pub fn new(tenant: TenantId, long_texts: LongTexts, routes: Arc<RouteMap>) -> Self {
        Self { tenant, long_texts, routes }
    }

    fn edits(&self, text: &[u8], settings: Settings) -> Option<Edits> {
        if !may_have_group(text) {
            return insula_pool_sql::edits(text, settings, &Keys::new());
        }
        insula_pool_sql::edits(text, settings, self.routes.snapshot().keys())
    }
}

/// What there is to change in a text.
#[derive(Debug)]
pub(crate) struct Changes {
    pub edits: Edits,
    /// Channels in it got their names.
    pub has_channels: bool,
}

/// A session's statements in a database that its tenant shares.
#[derive(Debug)]
pub(crate) struct Fitting {
    channels: Channels,
    /// In a pool.
    tables: Option<SharedTables>,
    conforming: bool,
    encoding: Encoding,
    sent: Sent,
    room: Option<Room>,
    /// A text has passed that was too long to be changed.
    has_passed_long: bool,
}

impl Fitting {
    pub fn new(channels: Channels, tables: Option<SharedTables>) -> Self {
        Self {
            channels,
            tables,
            conforming: true,
            encoding: Encoding::Utf8,
            sent: Sent::Unchanged(0),
            room: None,
            has_passed_long: false,
        }
    }

    /// The server says what a setting is.
    pub fn setting(&mut self, name: &[u8], value: &[u8]) {
        match name {
            b"standard_conforming_strings" => self.conforming = value == b"on",
            b"client_encoding" => self.encoding = Encoding::named(value),
            _ => {}
        }
    }

    /// A message begins while nothing else is under way.
    pub fn begins_anew(&mut self) {
        self.sent = Sent::Unchanged(0);
        self.room = None;
    }

    /// Whether there is room for a text that is longer than usual.
    pub fn has_room(&mut self, bytes: u32) -> bool {
        self.room = None;
        let Some(tables) = &self.tables else { return false };
        self.room = (bytes <= TEXT_BYTES_MAX).then(|| tables.long_texts.take(tables.tenant, bytes)).flatten();
        if self.room.is_none() {
            self.has_passed_long = true;
            self.sends(b"", None);
        }
        self.room.is_some()
    }

    /// Everything that was held has gone out.
    pub fn all_is_out(&mut self) {
        self.room = None;
    }

    /// What there is to change in a text.
    pub fn changes(&mut self, text: &[u8]) -> Option<Changes> {
        if self.encoding == Encoding::Mixed && !text.is_ascii() {
            return None;
        }
        let settings = Settings { conforming: self.conforming };
        let of_channels = self.channels.edits(text, settings);
        let of_tables = self.tables.as_ref().and_then(|tables| tables.edits(text, settings));
        let has_channels = of_channels.is_some();
        let edits = match (of_channels, of_tables) {
            (Some(one), Some(other)) => one.with(other),
            (one, other) => one.or(other)?,
        };
        Some(Changes { edits, has_channels })
    }

    /// Writes a notification as the client is to have it, if it is for it.
    pub fn put_notification(&self, notification: Notification<'_>, out: &mut BytesMut) {
        self.channels.put(notification, out);
    }

    /// A text goes out, changed or not.
    pub fn sends(&mut self, text: &[u8], edits: Option<&Edits>) {
        self.sent = match (&self.sent, edits) {
            (Sent::Unchanged(count), None) => Sent::Unchanged(count + 1),
            (Sent::Unchanged(0), Some(edits)) => {
                let shifts = edits.shifts(text, self.encoding == Encoding::Utf8);
                shifts.map_or(Sent::Unclear, Sent::Changed)
            }
            _ => Sent::Unclear,
        };
    }

    /// Whether an error of the server's is to be looked at.
    pub fn minds_errors(&self) -> bool {
        self.has_passed_long || !matches!(self.sent, Sent::Unchanged(_))
    }

    /// Writes an error as it is to be for the client; false where it is so
    /// already.
    pub fn put_error(&self, body: &[u8], out: &mut BytesMut) -> bool {
        let Ok(mut fields) = error_fields(body) else { return false };
        let is_of_list = fields.contains(&(SQLSTATE, NO_SUCH_INDEX));
        if self.has_passed_long && is_of_list {
            fields.retain(|(tag, _)| *tag != HINT);
            fields.push((HINT, TOO_LONG.as_bytes()));
        }
        let place = fields.iter().find(|(tag, _)| *tag == POSITION).and_then(|(_, place)| self.place(place));
        if !matches!(self.sent, Sent::Unchanged(_)) {
            fields.retain(|(tag, _)| *tag != POSITION);
            fields.extend(place.as_deref().map(|place| (POSITION, place)));
        }
        put_error_fields(out, &fields);
        true
    }

    fn place(&self, place: &[u8]) -> Option<Vec<u8>> {
        let Sent::Changed(shifts) = &self.sent else { return None };
        let place: usize = std::str::from_utf8(place).ok()?.parse().ok()?;
        Some(shifts.original(place).to_string().into_bytes())
    }
}

/// Writes a `Query` or `Parse` with a changed text; false where it would be
/// longer than a message may be.
pub(crate) fn put_changed(
    message: (u8, &[u8], &[u8]),
    text: &[u8],
    edits: &Edits,
    out: &mut BytesMut,
) -> bool {
    let (tag, name, rest) = message;
    put_text(out, tag, name, edits.pieces(text), rest).is_ok()
}

#[cfg(test)]
mod tests {
    use insula_credentials::MasterKeys;

    use super::*;

    fn fitting() -> Fitting {
        let tenant = "0190163d-8694-739b-aea5-966c26f8ad91".parse().unwrap();
        let keys = MasterKeys::parse("1:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=").unwrap();
        let channels = Channels::new(keys.channel_key(tenant, 1).unwrap());
        let tables = SharedTables::new(tenant, LongTexts::default(), Arc::new(RouteMap::new()));
        Fitting::new(channels, Some(tables))
    }

    const UPSERT: &[u8] = b"insert into t values (1) on conflict (a) do nothing";

    #[test]
    fn places_are_the_clients_where_one_text_is_under_way() {
        let mut fitting = fitting();
        let error = b"SERROR\0C42703\0P52\0Mx\0\0";
        let edits = fitting.changes(UPSERT).unwrap().edits;
        assert!(!fitting.minds_errors());
        fitting.sends(UPSERT, Some(&edits));
        let mut out = BytesMut::new();
        assert!(fitting.minds_errors() && fitting.put_error(error, &mut out));
        assert_eq!(&out[5..], b"SERROR\0C42703\0Mx\0P41\0\0");
        out.clear();
        fitting.sends(b"select 1", None);
        assert!(fitting.put_error(error, &mut out));
        assert_eq!(&out[5..], b"SERROR\0C42703\0Mx\0\0");
        assert!(!fitting.put_error(b"broken", &mut out));
        fitting.begins_anew();
        assert!(!fitting.minds_errors());
    }

    #[test]
    fn the_servers_settings_decide() {
        let mut fitting = fitting();
        let text = b"insert into t values ('\\') on conflict (a) do nothing --')";
        assert!(fitting.changes(text).is_some());
        fitting.setting(b"standard_conforming_strings", b"off");
        assert!(fitting.changes(text).is_none());
        let foreign = "insert into é values (1) on conflict (a) do nothing".as_bytes();
        assert!(fitting.changes(foreign).is_some());
        fitting.setting(b"client_encoding", b"SJIS");
        assert!(fitting.changes(foreign).is_none() && fitting.changes(UPSERT).is_some());
        fitting.setting(b"client_encoding", b"LATIN1");
        assert!(fitting.changes(foreign).is_some());
    }

    #[test]
    fn long_texts_have_bounds() {
        let mut fittings: Vec<_> = (0..=LONG_TEXTS_OF_TENANT).map(|_| fitting()).collect();
        let long_texts = LongTexts::default();
        for tables in fittings.iter_mut().filter_map(|fitting| fitting.tables.as_mut()) {
            tables.long_texts = long_texts.clone();
        }
        assert!(!fittings[0].has_room(TEXT_BYTES_MAX + 1) && fittings[0].minds_errors());
        let has_room: Vec<bool> =
            fittings.iter_mut().map(|fitting| fitting.has_room(TEXT_BYTES_MAX)).collect();
        assert_eq!(has_room, [true, true, true, true, false]);
        fittings[1].all_is_out();
        assert!(fittings[4].has_room(TEXT_BYTES_MAX));
        let mut out = BytesMut::new();
        fittings[0].put_error(b"C42P10\0Hx\0\0", &mut out);
        assert!(out[5..].starts_with(b"C42P10\0HIn a pool, ON CONFLICT"));
    }
}
