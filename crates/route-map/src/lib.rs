//! The pushed map from tenant to placement. Readers take an immutable snapshot
//! without a lock; whoever feeds the map hands in whole states or changes, in
//! any order, and an older statement never replaces a newer one. With the
//! catalog away the map stays as it is: known tenants go on.

mod followers;
mod hold;
mod map;
mod merge;
mod route;
mod snapshot;

pub use followers::Follower;
pub use hold::{Hold, HoldReport};
pub use map::RouteMap;
pub use merge::{Applied, Refused, Rows, Update};
pub use route::{ClusterEndpoint, LoginRoute, NextPlace, Route};
pub use snapshot::{Snapshot, TREE_DEPTH_MAX, TableKeys};
