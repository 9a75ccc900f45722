//! `flagd.sync`: definitions for those who evaluate flags themselves; and the
//! changes of a tenant's flags, which event streams tell of too. Both are
//! watches, and end like those.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;

use bytes::BytesMut;
use futures_util::{Stream, StreamExt, stream};
use insula_config_proto::flagd::sync::v1;
use insula_config_proto::flagd::sync::v1::flag_sync_service_server::FlagSyncService;
use insula_config_proto::v1 as ours;
use insula_problem::Problem;
use prost::Message;
use tonic::{Request, Response, Status};

use super::Flagd;
use super::credential::tenant;
use super::set::{Entry, FLAGS, FlagSet, RULES};
use crate::grpc::{settle, status};
use crate::watching::{WatchAsked, Watcher};

/// What has become of a tenant's flags.
#[derive(Debug)]
pub(super) enum Change {
    /// They are known.
    First(Arc<FlagSet>),
    /// They have changed.
    Changed {
        /// They.
        set: Arc<FlagSet>,
        /// What has become of which.
        names: BTreeMap<String, &'static str>,
    },
}

/// What has become of a tenant's flags, one after the other.
pub(super) type Changes = Pin<Box<dyn Stream<Item = Result<Change, Problem>> + Send>>;

/// Follows a tenant's flags.
#[derive(Debug)]
struct Follower {
    watcher: Watcher,
    /// By key.
    entries: BTreeMap<String, ours::Entry>,
    /// Entries of a snapshot of which parts are still to come.
    coming: BTreeMap<String, ours::Entry>,
    known: Option<Arc<FlagSet>>,
}

impl Follower {
    /// The next change; none when it is over.
    async fn next(&mut self) -> Option<Result<Change, Problem>> {
        loop {
            let frame = match self.watcher.next().await? {
                Ok(frame) => frame,
                Err(problem) => return Some(Err(problem)),
            };
            let mut bytes = BytesMut::new();
            frame.put(&mut bytes);
            match ours::WatchEvent::decode(bytes.freeze()) {
                Ok(event) => {
                    if event.event.is_some_and(|event| self.take(event)) {
                        return Some(Ok(self.change()));
                    }
                }
                Err(error) => return Some(Err(Problem::internal(error))),
            }
        }
    }

    /// Takes an event over; whether it says something new.
    fn take(&mut self, event: ours::watch_event::Event) -> bool {
        use ours::watch_event::Event;
        match event {
            Event::Snapshot(snapshot) => {
                self.coming.extend(snapshot.entries.into_iter().map(|entry| (entry.key.clone(), entry)));
                if !snapshot.more {
                    self.entries = std::mem::take(&mut self.coming);
                }
                !snapshot.more
            }
            Event::Delta(delta) => {
                for key in delta.removed {
                    self.entries.remove(&key);
                }
                self.entries.extend(delta.entries.into_iter().map(|entry| (entry.key.clone(), entry)));
                true
            }
            Event::Heartbeat(_) => false,
        }
    }

    fn change(&mut self) -> Change {
        let entries = self.entries.values().filter_map(|entry| match &entry.value {
            Some(ours::entry::Value::Json(json)) => {
                Some(Entry { key: &entry.key, json, scope: &entry.scope, version: entry.version })
            }
            _ => None,
        });
        let set = Arc::new(FlagSet::new(entries));
        match self.known.replace(set.clone()) {
            None => Change::First(set),
            Some(before) => Change::Changed { names: set.changed(&before), set },
        }
    }
}

impl Flagd {
    /// The changes of the flags of the tenant that asks.
    pub(super) async fn changes<T>(&self, request: &Request<T>) -> Result<Changes, Status> {
        let begun = async {
            let caller = tenant(request)?;
            let prefixes = vec![FLAGS.to_owned(), RULES.to_owned()];
            self.service.watch(caller, WatchAsked { prefixes, ..WatchAsked::default() }).await
        };
        let begun: Result<Watcher, Problem> = begun.await;
        settle("flagd.Watch", None, begun.as_ref().err());
        let watcher = begun.map_err(|problem| status(&problem))?;
        let follower = Follower { watcher, entries: BTreeMap::new(), coming: BTreeMap::new(), known: None };
        Ok(Box::pin(stream::unfold(follower, |mut follower| async move {
            let change = follower.next().await?;
            Some((change, follower))
        })))
    }
}

#[tonic::async_trait]
impl FlagSyncService for Flagd {
    type SyncFlagsStream = Pin<Box<dyn Stream<Item = Result<v1::SyncFlagsResponse, Status>> + Send>>;

    async fn sync_flags(
        &self,
        request: Request<v1::SyncFlagsRequest>,
    ) -> Result<Response<Self::SyncFlagsStream>, Status> {
        let changes = self.changes(&request).await?;
        let sent = changes.map(|change| match change {
            Ok(Change::First(set) | Change::Changed { set, .. }) => {
                Ok(v1::SyncFlagsResponse { flag_configuration: set.configuration(), sync_context: None })
            }
            Err(problem) => Err(status(&problem)),
        });
        Ok(Response::new(Box::pin(sent) as Self::SyncFlagsStream))
    }

    async fn fetch_all_flags(
        &self,
        request: Request<v1::FetchAllFlagsRequest>,
    ) -> Result<Response<v1::FetchAllFlagsResponse>, Status> {
        let mut changes = self.changes(&request).await?;
        match changes.next().await {
            Some(Ok(Change::First(set) | Change::Changed { set, .. })) => {
                Ok(Response::new(v1::FetchAllFlagsResponse { flag_configuration: set.configuration() }))
            }
            Some(Err(problem)) => Err(status(&problem)),
            None => Err(Status::unavailable("the watch has ended")),
        }
    }

    async fn get_metadata(
        &self,
        request: Request<v1::GetMetadataRequest>,
    ) -> Result<Response<v1::GetMetadataResponse>, Status> {
        tenant(&request).map_err(|problem| status(&problem))?;
        Ok(Response::new(v1::GetMetadataResponse { metadata: None }))
    }
}
