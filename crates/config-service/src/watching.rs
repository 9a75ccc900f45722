//! A watcher: a snapshot, then what changes, until its credential ends, its
//! tenant is gone or the process stops. One that falls behind, or whose view
//! becomes another, gets a new snapshot; none is silently left behind.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use insula_access::Arrival;
use insula_config_model::{
    ConfigKey, ConfigValue, KeyPrefix, Limits, Lineage, Revision, Rollout, Scope, TagTable,
};
use insula_config_proto::v1;
use insula_config_proto::v1::watch_event::{Event, Heartbeat, Reason};
use insula_config_store::ConfigStore;
use insula_domain::RegionName;
use insula_problem::{Code, Problem};
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint};
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, sleep};
use uuid::Uuid;

use crate::caller::{Caller, Reach};
use crate::directory::{Named, mark};
use crate::hub::{Feed, Hub, Item, Signal, Single, Told, short};
use crate::reading::is_shown;
use crate::sending::Sent;
use crate::service::{Counted, Service};
use crate::tags::prefix;
use crate::wire::{Frame, entry_part, microseconds};

/// The most prefixes of a watcher.
const PREFIXES_MAX: usize = 20;
/// The longest id of a client, in bytes.
const CLIENT_ID_MAX: usize = 100;
/// The bytes of a part of a snapshot, where its last entry is not longer.
const PART: usize = 64 << 10;
/// Changes that are told to a client that comes back, at the most; one that has
/// missed more gets a snapshot, which is less.
const MISSED_MAX: u32 = 500;
/// How long a client's revision that is not known here yet is waited for.
const REACHED_WITHIN: Duration = Duration::from_secs(2);
/// How long it is tried to find a tenant's configuration that is on its way.
const FOUND_WITHIN: Duration = Duration::from_secs(30);
/// Pause between two tries.
const TRY_EVERY: Duration = Duration::from_millis(100);
/// For so long after the log was looked at nothing is known to have changed.
const FRESH: Duration = Duration::from_secs(15);
/// The number of the snapshot in an event.
const SNAPSHOT: u32 = 1;

/// What a watcher asks for.
#[derive(Debug, Clone, Default)]
pub struct WatchAsked {
    /// What keys begin with; none is all.
    pub prefixes: Vec<String>,
    /// The revision that the client has; 0 where it has none.
    pub from: Revision,
    /// What the client's last snapshot said of the view.
    pub view: String,
    /// The scope: operators name a tenant.
    pub scope: String,
    /// Who the client is; empty where it is to be given an id.
    pub client_id: String,
    /// Secrets in clear.
    pub reveal: bool,
    /// The connection, which may have to end.
    pub arrival: Option<Arrival>,
}

/// A snapshot of which parts are still to be sent.
#[derive(Debug)]
struct Sending {
    items: std::vec::IntoIter<Item>,
    revision: Revision,
    reason: Reason,
    view: String,
}

/// A watcher.
#[derive(Debug)]
pub struct Watcher {
    service: Arc<Service>,
    caller: Caller,
    scope: String,
    watched: Watched,
    reveal: bool,
    client_id: String,
    region: RegionName,
    feed: Feed,
    sending: Option<Box<Sending>>,
    /// What goes before everything else.
    first: VecDeque<(Frame, Option<Sent>)>,
    /// The revision of the last snapshot or delta.
    last: Revision,
    heartbeat: Interval,
    is_over: bool,
    /// The room of what it was given last.
    sent: Option<Sent>,
    counted: Counted,
}

/// The keys that have another value than at a revision, as far as the tenant
/// sees them; or why it needs a snapshot.
async fn missed(
    store: &ConfigStore,
    lineage: &Lineage,
    feed: &Feed,
    from: Revision,
) -> Result<Result<BTreeSet<ConfigKey>, Reason>, Problem> {
    if store.home(lineage.tenant).await?.is_none_or(|home| home.since > from) {
        return Ok(Err(Reason::Moved));
    }
    let touched = store.touched(&lineage.scopes(), from, MISSED_MAX).await?;
    if touched.compacted > from || touched.revision < feed.revision {
        return Ok(Err(Reason::Compacted));
    }
    let Some(touched) = touched.keys else { return Ok(Err(Reason::Compacted)) };
    if touched.iter().any(|(_, key)| key.as_str() == TagTable::KEY) {
        return Ok(Err(Reason::Moved));
    }
    let is_seen = |(scope, key): &(Scope, ConfigKey)| {
        let is_others = scope.tenant().is_some_and(|owner| owner != lineage.tenant);
        !is_others || feed.tags.of(key).is_ok_and(|tag| tag.inherited)
    };
    // A step of a rollout is a change of what is rolled out.
    let subject = |(scope, key): (Scope, ConfigKey)| (scope, Rollout::subject(&key).unwrap_or(key));
    Ok(Ok(touched.into_iter().map(subject).filter(is_seen).map(|(_, key)| key).collect()))
}

/// What a watcher is told of: what begins with one of the prefixes, as far as
/// its key reaches.
#[derive(Debug, Clone)]
struct Watched {
    prefixes: Vec<KeyPrefix>,
    reach: Option<Reach>,
}

impl Watched {
    fn covers(&self, key: &ConfigKey) -> bool {
        let is_asked_for = |prefix: &KeyPrefix| prefix.covers(key) && is_shown(key, prefix);
        self.prefixes.iter().any(is_asked_for) && self.reach.as_ref().is_none_or(|reach| reach.covers(key))
    }

    /// Whether that is everything but Insula's own.
    fn is_all(&self) -> bool {
        self.reach.is_none() && self.prefixes.iter().any(|prefix| prefix.as_str().is_empty())
    }
}

impl Service {
    /// Begins a watch.
    ///
    /// # Errors
    /// What is wrong with the question; `overloaded`; where the store is away.
    pub async fn watch(self: &Arc<Self>, caller: Caller, asked: WatchAsked) -> Result<Watcher, Problem> {
        let invalid = |pointer, rule: String| {
            Err(Problem::new(Code::InvalidRequest, format!("Expected {rule}.")).at(pointer, rule))
        };
        if asked.prefixes.len() > PREFIXES_MAX {
            return invalid("/prefixes", format!("{PREFIXES_MAX} prefixes at the most"));
        }
        let is_id = asked.client_id.len() <= CLIENT_ID_MAX && !asked.client_id.chars().any(char::is_control);
        if !is_id {
            return invalid("/client_id", format!("{CLIENT_ID_MAX} bytes without control characters"));
        }
        if asked.reveal {
            caller.check_reveal()?;
        }
        if caller.tenant().is_none() && !caller.pass.is_followed() {
            let detail =
                "A watch goes on, and it is not heard when a password ends: use an operator's token.";
            return Err(Problem::new(Code::Forbidden, detail));
        }
        let watched = self.watched(&caller, &asked.prefixes)?;
        let counted = self.seat(self.watched_tenant(&caller, &asked.scope)?.tenant, asked.arrival)?;
        let (lineage, feed) = self.feed(|| self.watched_tenant(&caller, &asked.scope)).await?;
        self.check_limits(&lineage, &feed.items)?;
        let mut heartbeat = interval_at(Instant::now() + self.bounds.heartbeat, self.bounds.heartbeat);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let is_new = asked.client_id.is_empty();
        let client_id = if is_new { self.new_client_id() } else { asked.client_id };
        let mut watcher = Watcher {
            service: self.clone(),
            caller,
            scope: asked.scope,
            watched,
            reveal: asked.reveal,
            client_id,
            region: lineage.region.clone(),
            feed,
            sending: None,
            first: VecDeque::new(),
            last: asked.from,
            heartbeat,
            is_over: false,
            sent: None,
            counted,
        };
        match watcher.resume(&lineage, asked.from, &asked.view).await? {
            Err(reason) => watcher.begin_snapshot(&lineage, reason),
            Ok(missed) if watcher.shortly(&missed).is_none() => {
                watcher.begin_snapshot(&lineage, Reason::Compacted);
            }
            Ok(missed) => {
                // The id, where one was given, and then what was missed.
                if is_new {
                    let told = watcher.heartbeat(asked.from);
                    watcher.first.push_back((told, None));
                }
                let delta = watcher.delta(watcher.feed.revision, &missed).await?;
                let sent = watcher.sent.take();
                watcher.first.extend(delta.map(|delta| (delta, sent)));
                watcher.feed.items = Vec::new();
            }
        }
        Ok(watcher)
    }

    fn watched(&self, caller: &Caller, asked: &[String]) -> Result<Watched, Problem> {
        let table = self.tags.known()?;
        let reach = caller.reach(&table)?;
        let all = [String::new()];
        let asked = if asked.is_empty() { &all } else { asked };
        let mut prefixes = Vec::with_capacity(asked.len());
        for text in asked {
            let prefix = prefix(&table, text)?;
            prefixes.extend(match &reach {
                Some(reach) => reach.within(&prefix),
                None => Some(prefix),
            });
        }
        if prefixes.is_empty() {
            return Err(Problem::new(Code::Forbidden, "The key's path reaches none of these prefixes."));
        }
        Ok(Watched { prefixes, reach })
    }

    fn watched_tenant(&self, caller: &Caller, scope: &str) -> Result<Lineage, Problem> {
        match self.directory.named(caller, scope)? {
            Named::Tenant(lineage) => Ok(lineage),
            Named::Provider(_) => {
                let detail = "What a tenant sees is watched: name a tenant, as in tenant/acme.";
                Err(Problem::new(Code::InvalidRequest, detail).at("/scope", "expected a tenant"))
            }
        }
    }

    /// Whether the tenant may have the watcher that it has been counted for.
    fn check_limits(&self, lineage: &Lineage, seen: &[Item]) -> Result<(), Problem> {
        let set = seen.binary_search_by(|item| item.stored.key.as_str().cmp(Limits::KEY));
        let value = set.ok().and_then(|at| seen[at].stored.value.as_ref());
        let Some(ConfigValue::Json(json)) = value else { return Ok(()) };
        let limits = Limits::parse(json).unwrap_or_default();
        match limits.watchers {
            Some(most) if self.watchers_of(lineage.tenant) > most as usize => {
                let detail = format!("The tenant may have {most} watchers of its configuration at once.");
                Err(Problem::new(Code::QuotaExceeded, detail))
            }
            _ => Ok(()),
        }
    }

    fn new_client_id(&self) -> String {
        let mut bytes = [0; 16];
        self.entropy.fill(&mut bytes);
        Uuid::from_bytes(bytes).simple().to_string()
    }
}

impl Watcher {
    /// Who it is among the tenant's clients.
    #[must_use]
    pub fn client_id(&self) -> &str {
        &self.client_id
    }

    fn hub(&self) -> Result<&Arc<Hub>, Problem> {
        self.service.region(&self.region).map(|region| &region.hub)
    }

    /// What a client has missed that comes back, or why it gets a snapshot.
    async fn resume(
        &mut self,
        lineage: &Lineage,
        from: Revision,
        view: &str,
    ) -> Result<Result<Vec<Single>, Reason>, Problem> {
        if from <= 0 {
            return Ok(Err(Reason::Asked));
        }
        if view != mark(lineage, &self.feed.tags) {
            return Ok(Err(Reason::Moved));
        }
        let region = self.service.region(&lineage.region)?;
        if from > self.feed.revision {
            // Another process knew more.
            if region.hub.reached(from, REACHED_WITHIN).await.is_err() {
                return Ok(Err(Reason::Compacted));
            }
            self.feed = region.hub.subscribe(lineage).await?;
        }
        let missed = match missed(&region.store, lineage, &self.feed, from).await {
            Ok(Ok(missed)) => missed,
            Ok(Err(reason)) => return Ok(Err(reason)),
            Err(problem) => {
                // What a snapshot needs is there, and this is not worth its life.
                tracing::debug!(cause = problem.chain(), "what a watcher has missed cannot be read");
                return Ok(Err(Reason::Compacted));
            }
        };
        let seen = |key: &ConfigKey| {
            let at = self.feed.items.binary_search_by(|item| item.stored.key.cmp(key));
            at.ok().map(|at| self.feed.items[at].clone())
        };
        Ok(Ok(missed.into_iter().map(|key| Single { item: seen(&key), key }).collect()))
    }

    fn begin_snapshot(&mut self, lineage: &Lineage, reason: Reason) {
        let mut items = std::mem::take(&mut self.feed.items);
        items.retain(|item| self.watched.covers(&item.stored.key));
        let view = mark(lineage, &self.feed.tags);
        let revision = self.feed.revision;
        self.sending = Some(Box::new(Sending { items: items.into_iter(), revision, reason, view }));
        metrics::counter!(crate::measure::SNAPSHOTS, "reason" => reason.as_str_name()).increment(1);
    }

    /// The room that the last event has, for those who know when it was taken; for
    /// others it has it until the next one is asked for.
    pub(crate) fn sent(&mut self) -> Option<Sent> {
        self.sent.take()
    }

    /// The next event; none when it is over. An error is the last one.
    pub async fn next(&mut self) -> Option<Result<Frame, Problem>> {
        self.sent = None;
        if self.is_over {
            return None;
        }
        let ended = self.caller.pass.clone();
        let stop = self.service.stop.clone();
        let event = tokio::select! {
            biased;
            () = ended.ended().cancelled() => {
                Err(Problem::new(Code::Unauthenticated, "The credential of this stream holds no more."))
            }
            () = stop.cancelled() => {
                Err(Problem::new(Code::Unavailable, "This process stops; connect again.").retry_after(1))
            }
            event = self.event() => event,
        };
        self.is_over = event.is_err();
        Some(event)
    }

    async fn event(&mut self) -> Result<Frame, Problem> {
        if let Some((first, sent)) = self.first.pop_front() {
            self.sent = sent;
            return Ok(first);
        }
        loop {
            if let Some(sending) = self.sending.take() {
                return self.part(sending).await;
            }
            let signal = tokio::select! {
                biased;
                signal = self.feed.signals.recv() => signal,
                _ = self.heartbeat.tick() => {
                    // Everything up to what is known was told before it is known.
                    let known = self.hub()?.known();
                    match self.feed.signals.try_recv() {
                        Ok(signal) => Ok(signal),
                        Err(TryRecvError::Lagged(count)) => Err(RecvError::Lagged(count)),
                        Err(TryRecvError::Closed) => Err(RecvError::Closed),
                        Err(TryRecvError::Empty) => match known {
                            Some((revision, at)) if at.elapsed() < FRESH => return Ok(self.heartbeat(revision)),
                            // Nothing is known: the client will see that it hears nothing.
                            _ => continue,
                        },
                    }
                }
            };
            match signal {
                Ok(Signal::Told(told))
                    if (told.is_long || self.reveal) && self.shortly(&told.single).is_none() =>
                {
                    self.again(Reason::Overflow).await?;
                }
                Ok(Signal::Told(told)) => {
                    if let Some(delta) = self.told(&told).await? {
                        return Ok(delta);
                    }
                }
                Ok(Signal::Again(reason)) => self.again(reason).await?,
                Err(RecvError::Lagged(_)) => self.again(Reason::Overflow).await?,
                Err(RecvError::Closed) => self.again(Reason::Moved).await?,
            }
        }
    }

    /// Subscribes again, wherever the tenant is now.
    async fn again(&mut self, reason: Reason) -> Result<(), Problem> {
        let began = Instant::now();
        loop {
            let watched = || self.service.watched_tenant(&self.caller, &self.scope);
            // A tenant that is gone, or another one's, is not looked for.
            watched()?;
            match self.service.feed(watched).await {
                Ok((lineage, feed)) => {
                    self.region = lineage.region.clone();
                    self.feed = feed;
                    self.begin_snapshot(&lineage, reason);
                    return Ok(());
                }
                Err(problem) if began.elapsed() > FOUND_WITHIN => return Err(problem),
                Err(_) => sleep(TRY_EVERY).await,
            }
        }
    }

    /// The next part of a snapshot.
    async fn part(&mut self, mut sending: Box<Sending>) -> Result<Frame, Problem> {
        let (mut items, mut bytes) = (Vec::new(), 0);
        while bytes < PART {
            let Some(item) = sending.items.next() else { break };
            bytes += item.length(self.reveal);
            items.push(item);
        }
        self.sent = self.counted.room(bytes).await?;
        let mut entries = BytesMut::with_capacity(bytes);
        for item in &items {
            self.put(item, &mut entries).await?;
        }
        let more = sending.items.len() > 0;
        let head = v1::watch_event::Snapshot {
            revision: sending.revision,
            entries: Vec::new(),
            more,
            reason: sending.reason.into(),
            client_id: self.client_id.clone(),
            view: sending.view.clone(),
        };
        let length = head.encoded_len() + entries.len();
        let mut event = BytesMut::with_capacity(length + 8);
        encode_key(SNAPSHOT, WireType::LengthDelimited, &mut event);
        encode_varint(length as u64, &mut event);
        head.encode(&mut event).map_err(Problem::internal)?;
        event.put(entries);
        if more {
            self.sending = Some(sending);
        } else {
            self.last = sending.revision;
        }
        Ok(Frame::Whole(event.freeze()))
    }

    /// How many bytes it would be told of these; none where it takes a snapshot
    /// instead.
    fn shortly(&self, single: &[Single]) -> Option<usize> {
        short(single.iter().filter(|one| self.watched.covers(&one.key)), self.reveal)
    }

    async fn told(&mut self, told: &Told) -> Result<Option<Frame>, Problem> {
        let is_all = self.watched.is_all()
            && !told.is_long
            && !self.reveal
            && !told.single.iter().any(|one| one.key.as_str().starts_with(TagTable::OWN));
        if is_all {
            self.sent = self.counted.room(told.parts.len()).await?;
            return Ok(Some(self.delta_of(told.revision, told.parts.clone())));
        }
        self.delta(told.revision, &told.single).await
    }

    /// What the watcher is told of these; none where it watches none of them.
    async fn delta(&mut self, revision: Revision, single: &[Single]) -> Result<Option<Frame>, Problem> {
        self.sent = self.counted.room(self.shortly(single).unwrap_or(usize::MAX)).await?;
        let mut parts = BytesMut::new();
        for one in single.iter().filter(|one| self.watched.covers(&one.key)) {
            match &one.item {
                Some(item) => self.put(item, &mut parts).await?,
                None => one.put(&mut parts),
            }
        }
        Ok((!parts.is_empty()).then(|| self.delta_of(revision, parts.freeze())))
    }

    fn delta_of(&mut self, revision: Revision, parts: Bytes) -> Frame {
        metrics::counter!(crate::measure::DELTAS).increment(1);
        let since = std::mem::replace(&mut self.last, revision);
        Frame::Delta { revision, since, parts }
    }

    /// Appends an entry, a secret in clear to those who asked for it so.
    async fn put(&self, item: &Item, parts: &mut BytesMut) -> Result<(), Problem> {
        if self.reveal && matches!(item.stored.value, Some(ConfigValue::Sealed(_))) {
            let named = self.service.directory.named(&self.caller, &self.scope)?;
            let opened = self.service.reveal(&self.caller, &named, (*item.stored).clone()).await?;
            parts.put(entry_part(&opened));
        } else {
            parts.extend_from_slice(&item.part);
        }
        Ok(())
    }

    fn heartbeat(&self, revision: Revision) -> Frame {
        Frame::of(Event::Heartbeat(Heartbeat {
            revision,
            at_us: microseconds(self.service.clock.now()),
            client_id: self.client_id.clone(),
            since: self.last,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_decide_what_is_told() {
        let watched = |prefixes: &[&str], key: &str| {
            let prefixes: Vec<KeyPrefix> = prefixes.iter().map(|prefix| prefix.parse().unwrap()).collect();
            Watched { prefixes, reach: None }.covers(&key.parse().unwrap())
        };
        assert!(watched(&[""], "tenant_config_a") && !watched(&[""], "insula_tags"));
        assert!(watched(&["insula_"], "insula_tags") && !watched(&["insula_"], "tenant_config_a"));
        assert!(watched(&["param_", "tenant_config_a"], "tenant_config_ab"));
        assert!(!watched(&["param_", "tenant_config_a"], "tenant_config_b"));
        assert!(!watched(&[], "tenant_config_a"));
    }
}
