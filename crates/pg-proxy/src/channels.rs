//! The notification channels of a session in a database that its tenant shares:
//! PostgreSQL's know no tenants, so each tenant's have names of their own there.
//! The session hears those that it has asked for by their names, and no others,
//! whoever notifies.

use std::collections::HashMap;

use bytes::BytesMut;
use insula_credentials::ChannelKey;
use insula_pg_wire::backend::Notification;
use insula_pool_sql::{ChannelVerb, Edits, Settings, channel_edits};

/// Channels of a session, at most. PostgreSQL has no such bound, and does not
/// expect many either: it looks through all for each notification.
const CHANNELS_MAX: usize = 1000;

/// The channels of a session.
#[derive(Debug)]
pub(crate) struct Channels {
    key: ChannelKey,
    /// Those that the session has ever asked to hear: the client's names by the
    /// database's. One that is not listened to any more says nothing.
    heard: HashMap<String, String>,
}

impl Channels {
    pub fn new(key: ChannelKey) -> Self {
        Self { key, heard: HashMap::new() }
    }

    /// What there is to change in a text. Nothing where the session would hear
    /// too many.
    pub fn edits(&mut self, text: &[u8], settings: Settings) -> Option<Edits> {
        let Self { key, heard } = self;
        channel_edits(text, settings, |verb, name| {
            let channel = key.channel(name);
            if verb == ChannelVerb::Listen && !heard.contains_key(&channel) {
                if heard.len() >= CHANNELS_MAX {
                    return None;
                }
                heard.insert(channel.clone(), name.to_owned());
            }
            Some(channel)
        })
    }

    /// Writes a notification under the client's name, if it is for the session.
    pub fn put(&self, notification: Notification<'_>, out: &mut BytesMut) {
        let channel = std::str::from_utf8(notification.channel).ok();
        if let Some(name) = channel.and_then(|channel| self.heard.get(channel)) {
            Notification { channel: name.as_bytes(), ..notification }.put(out);
        }
    }
}

#[cfg(test)]
mod tests {
    use insula_credentials::MasterKeys;

    use super::*;

    fn channels(tenant: &str) -> Channels {
        let keys = MasterKeys::parse("1:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=").unwrap();
        Channels::new(keys.channel_key(tenant.parse().unwrap(), 1).unwrap())
    }

    const CONFORMING: Settings = Settings { conforming: true };

    fn heard(channels: &Channels, channel: &str) -> BytesMut {
        let mut out = BytesMut::new();
        let (channel, payload) = (channel.as_bytes(), &b"today"[..]);
        channels.put(Notification { process_id: 7, channel, payload }, &mut out);
        out
    }

    #[test]
    fn a_session_hears_what_it_asked_for_under_its_own_name() {
        let mut channels = channels("0190163d-8694-739b-aea5-966c26f8ad91");
        let changed = channels.edits(b"listen news", CONFORMING).unwrap().apply(b"listen news");
        let channel = std::str::from_utf8(&changed).unwrap().strip_prefix("listen ").unwrap().to_owned();
        let out = heard(&channels, &channel);
        let told = Notification::from_body(&out[5..]).unwrap();
        assert_eq!(told, Notification { process_id: 7, channel: b"news", payload: b"today" });
        for other in ["news", "insula_", ""] {
            assert!(heard(&channels, other).is_empty());
        }
        let _ = channels.edits(b"notify other", CONFORMING).unwrap();
        assert_eq!(channels.heard.len(), 1, "what is said need not be heard");
    }

    #[test]
    fn a_session_hears_so_many_and_no_more() {
        let mut channels = channels("0190163d-8694-739b-aea5-966c26f8ad91");
        for number in 0..CHANNELS_MAX {
            assert!(channels.edits(format!("listen c{number}").as_bytes(), CONFORMING).is_some());
        }
        assert!(channels.edits(b"listen one_more", CONFORMING).is_none());
        assert!(channels.edits(b"listen c7", CONFORMING).is_some());
        assert!(channels.edits(b"notify one_more", CONFORMING).is_some());
    }
}
