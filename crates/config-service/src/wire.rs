//! Values as they go over the wire. What many watchers get is encoded once: an
//! entry is the same bytes in every snapshot and delta that it is part of.

use bytes::{BufMut, Bytes, BytesMut};
use insula_config_model::{ConfigKey, ConfigValue, Revision, Stored};
use insula_config_proto::v1;
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};
use time::OffsetDateTime;

/// The number of the entries in a snapshot and in a delta.
const ENTRIES: u32 = 2;
/// The number of the removed keys in a delta.
const REMOVED: u32 = 3;
/// The number of the revision in a snapshot and in a delta.
const REVISION: u32 = 1;
/// The number of the delta in an event, and of the revision before in a delta.
const DELTA: u32 = 2;
const SINCE: u32 = 4;

/// Microseconds since 1970 in UTC.
#[must_use]
pub fn microseconds(at: OffsetDateTime) -> i64 {
    i64::try_from(at.unix_timestamp_nanos() / 1_000).unwrap_or(i64::MAX)
}

/// A version as callers get it; a secret is in clear only where it was opened.
#[must_use]
pub fn entry(stored: &Stored) -> v1::Entry {
    use v1::entry::Value;
    let value = match &stored.value {
        None => Value::Removed(true),
        Some(ConfigValue::Json(json)) => Value::Json(json.clone()),
        Some(ConfigValue::Secret(clear)) => Value::Json(Bytes::copy_from_slice(clear)),
        Some(ConfigValue::Sealed(_)) => Value::Sealed(true),
        Some(ConfigValue::Blob(blob)) => Value::Blob(v1::Blob {
            sha256: blob.sha256.clone(),
            bytes: blob.bytes,
            media_type: blob.media_type.clone(),
        }),
    };
    v1::Entry {
        key: stored.key.to_string(),
        scope: stored.scope.to_string(),
        version: stored.version,
        revision: stored.revision,
        value: Some(value),
        labels: stored.labels.iter().map(ToString::to_string).collect(),
        author: stored.author.clone(),
        at_us: microseconds(stored.at),
        note: stored.note.clone(),
        secret: matches!(stored.value, Some(ConfigValue::Secret(_) | ConfigValue::Sealed(_))),
    }
}

/// An entry as a part of a snapshot or delta.
#[must_use]
pub fn entry_part(stored: &Stored) -> Bytes {
    let entry = entry(stored);
    let length = entry.encoded_len();
    let mut part = BytesMut::with_capacity(length + 6);
    encode_key(ENTRIES, WireType::LengthDelimited, &mut part);
    encode_varint(length as u64, &mut part);
    entry.encode_raw(&mut part);
    part.freeze()
}

/// A removed key as a part of a delta.
pub fn put_removed(key: &ConfigKey, part: &mut BytesMut) {
    encode_key(REMOVED, WireType::LengthDelimited, part);
    encode_varint(key.as_str().len() as u64, part);
    part.put_slice(key.as_str().as_bytes());
}

/// What goes to a watcher, as far as it is encoded already.
#[derive(Debug, Clone)]
pub enum Frame {
    /// A whole event.
    Whole(Bytes),
    /// A delta whose entries and removed keys are encoded.
    Delta {
        /// Of the delta.
        revision: Revision,
        /// Of the event before it.
        since: Revision,
        /// Entries and removed keys.
        parts: Bytes,
    },
}

impl Frame {
    /// An event.
    #[must_use]
    pub fn of(event: v1::watch_event::Event) -> Self {
        Self::Whole(v1::WatchEvent { event: Some(event) }.encode_to_vec().into())
    }

    /// Writes the event.
    pub fn put(&self, buffer: &mut impl BufMut) {
        match self {
            Self::Whole(event) => buffer.put_slice(event),
            Self::Delta { revision, since, parts } => {
                let number = |field, value: i64| {
                    if value == 0 { 0 } else { key_len(field) + encoded_len_varint(value.cast_unsigned()) }
                };
                let length = number(REVISION, *revision) + number(SINCE, *since) + parts.len();
                encode_key(DELTA, WireType::LengthDelimited, buffer);
                encode_varint(length as u64, buffer);
                for (field, value) in [(REVISION, *revision), (SINCE, *since)] {
                    if value != 0 {
                        encode_key(field, WireType::Varint, buffer);
                        encode_varint(value.cast_unsigned(), buffer);
                    }
                }
                buffer.put_slice(parts);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use insula_config_model::Scope;
    use v1::watch_event::{Delta, Event};

    use super::*;

    fn stored(value: Option<ConfigValue>) -> Stored {
        Stored {
            scope: Scope::Platform,
            key: "tenant_config_a".parse().unwrap(),
            version: 3,
            revision: 1 << 40,
            value,
            labels: BTreeSet::new(),
            author: "operator:ada".to_owned(),
            at: OffsetDateTime::UNIX_EPOCH,
            note: String::new(),
        }
    }

    #[test]
    fn a_delta_of_encoded_parts_is_the_message() {
        let one = stored(Some(ConfigValue::Json(Bytes::from_static(b"{\"a\":1}"))));
        let gone: ConfigKey = "tenant_config_gone".parse().unwrap();
        let mut parts = BytesMut::new();
        parts.extend_from_slice(&entry_part(&one));
        put_removed(&gone, &mut parts);
        for (revision, since) in [(1 << 40, 300), (7, 0)] {
            let frame = Frame::Delta { revision, since, parts: parts.clone().freeze() };
            let mut written = Vec::new();
            frame.put(&mut written);
            let wanted =
                Delta { revision, since, entries: vec![entry(&one)], removed: vec![gone.to_string()] };
            let read = v1::WatchEvent::decode(written.as_slice()).unwrap();
            assert_eq!(read.event, Some(Event::Delta(wanted)));
        }
    }

    #[test]
    fn a_secret_stays_sealed_unless_it_was_opened() {
        let sealed = entry(&stored(Some(ConfigValue::Sealed(Bytes::from_static(b"envelope")))));
        assert_eq!(sealed.value, Some(v1::entry::Value::Sealed(true)));
        assert!(sealed.secret);
        let opened = entry(&stored(Some(ConfigValue::Secret(b"1".to_vec().into()))));
        assert_eq!(opened.value, Some(v1::entry::Value::Json(Bytes::from_static(b"1"))));
        assert!(opened.secret, "and says that it is one");
    }
}
