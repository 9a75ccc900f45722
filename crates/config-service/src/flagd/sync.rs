//! `flagd.sync`: definitions for those who evaluate flags themselves; and the
//! changes of a tenant's flags, which event streams tell of too. Both are
//! watches, and end like those; what they are told of is a tenant's one set.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;

use bytes::BytesMut;
use futures_util::{Stream, StreamExt, stream};
use insula_access::Arrival;
use insula_config_proto::flagd::sync::v1;
use insula_config_proto::flagd::sync::v1::flag_sync_service_server::FlagSyncService;
use insula_config_proto::v1 as ours;
use insula_problem::Problem;
use prost::Message;
use tonic::{Request, Response, Status};

use super::Flagd;
use super::credential::tenant;
use super::set::{FLAGS, FlagSet, RULES};
use super::sets::{Slot, check_streams};
use crate::caller::Caller;
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
    flagd: Flagd,
    caller: Caller,
    /// Says when something has changed, and when it is over.
    watcher: Watcher,
    /// Keeps the set ready that the tenant's streams share.
    _slot: Slot,
    known: Option<Arc<FlagSet>>,
}

/// Whether flags are others behind an event.
fn is_change(event: &ours::watch_event::Event) -> bool {
    use ours::watch_event::Event;
    match event {
        Event::Snapshot(snapshot) => !snapshot.more,
        Event::Delta(_) => true,
        Event::Heartbeat(_) => false,
    }
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
                    if event.event.as_ref().is_some_and(is_change) {
                        return Some(self.change().await);
                    }
                }
                Err(error) => return Some(Err(Problem::internal(error))),
            }
        }
    }

    /// The hub has told the shared set of whatever this stream was told of.
    async fn change(&mut self) -> Result<Change, Problem> {
        let set = self.flagd.flags(&self.caller).await?.0.shown;
        Ok(match self.known.replace(set.clone()) {
            None => Change::First(set),
            Some(before) => Change::Changed { names: set.changed(&before), set },
        })
    }
}

impl Flagd {
    /// The changes of the flags of the tenant that asks.
    pub(super) async fn changes<T>(&self, request: &Request<T>) -> Result<Changes, Status> {
        let begun = async {
            let caller = tenant(request)?;
            let (flags, slot) = self.flags(&caller).await?;
            check_streams(&flags, &slot)?;
            let prefixes = vec![FLAGS.to_owned(), RULES.to_owned()];
            let arrival = request.extensions().get::<Arrival>().cloned();
            let asked = WatchAsked { prefixes, arrival, ..WatchAsked::default() };
            let watcher = self.service.watch(caller.clone(), asked).await?;
            Ok(Follower { flagd: self.clone(), caller, watcher, _slot: slot, known: None })
        };
        let begun: Result<Follower, Problem> = begun.await;
        settle("flagd.Watch", None, begun.as_ref().err());
        let follower = begun.map_err(|problem| status(&problem))?;
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
            Ok(Change::First(set) | Change::Changed { set, .. }) => Ok(v1::SyncFlagsResponse {
                flag_configuration: set.configuration().to_owned(),
                sync_context: None,
            }),
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
                Ok(Response::new(v1::FetchAllFlagsResponse {
                    flag_configuration: set.configuration().to_owned(),
                }))
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
