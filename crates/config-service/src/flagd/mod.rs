//! Feature flags for OpenFeature's SDKs, by flagd's protocol: evaluated here
//! (`flagd.evaluation`), or sent to those who evaluate them themselves
//! (`flagd.sync`). A flag is a value under `tenant_config_flag/<name>`, and so
//! each tenant sees its own; whose flags they are, the credential says alone.

mod answer;
mod credential;
mod evaluation;
mod set;
mod sets;
mod structs;
mod sync;

use std::sync::Arc;

use insula_config_proto::flagd::evaluation::{v1, v2};
use insula_config_proto::flagd::sync::v1::flag_sync_service_server::FlagSyncServiceServer;
use tonic::service::Routes;

use crate::service::Service;
pub(crate) use credential::present;
pub use set::{FLAGS, FlagSet, Found, RULES};
use sets::Sets;

/// The longest message that is read, in bytes: a context of an evaluation.
const MESSAGE_BYTES: usize = 256 << 10;

/// What serves flags.
#[derive(Debug, Clone)]
pub(crate) struct Flagd {
    service: Arc<Service>,
    sets: Arc<Sets>,
}

/// flagd's services, to be served beside ours.
#[must_use]
pub fn routes(service: &Arc<Service>) -> Routes {
    let flagd = Flagd { service: service.clone(), sets: Arc::new(Sets::default()) };
    tokio::spawn(sets::sweep(Arc::downgrade(&flagd.sets)));
    let first = v1::service_server::ServiceServer::new(flagd.clone());
    let second = v2::service_server::ServiceServer::new(flagd.clone());
    let sync = FlagSyncServiceServer::new(flagd).max_decoding_message_size(MESSAGE_BYTES);
    Routes::new(first.max_decoding_message_size(MESSAGE_BYTES))
        .add_service(second.max_decoding_message_size(MESSAGE_BYTES))
        .add_service(sync)
}
