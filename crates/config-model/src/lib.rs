//! The words of the configuration service as types: keys and the tags that
//! route them to a backend, the scopes in which values are set and the order in
//! which a tenant sees them, values, versions and writes. Pure: nothing here
//! reads a clock, a socket or a store.

mod backend;
mod carry;
mod effective;
mod key;
mod limits;
mod rollout;
mod scope;
mod stored;
mod tag;
mod tag_move;
mod value;
mod write;

pub use backend::{
    AUTHOR_EXTERNAL, Backend, BackendFault, BackendLimits, Held, NewVersion, Sweep, author_of, marked,
};
pub use carry::{carry, is_carried};
pub use effective::{Explained, Layer, Lineage, Staged, effective};
pub use key::{ConfigKey, InvalidKey, KEY_BYTES_MAX, KeyPrefix};
pub use limits::{InvalidLimits, Limits};
pub use rollout::{
    BAKE_MAX, Health, InvalidPlan, Move, NAMED_MAX, Plan, Rollout, RolloutState, STEPS_MAX, Share,
};
pub use scope::{InvalidScope, Scope};
pub use stored::{Revision, Stored, Version};
pub use tag::{BackendName, InvalidTags, Kind, OWN_BACKEND, Tag, TagTable, UnknownTag};
pub use tag_move::{MoveRefused, TagMove, TagMoveState};
pub use value::{BlobRef, ConfigValue, ValueRefused, compact_json, meaning, sealed_letters, sealed_text};
pub use write::{
    InvalidLabel, LABEL_CURRENT, LABEL_PREVIOUS, Label, Made, Note, RequestToken, Room, SCHEMA_KEYS,
    Transaction, WRITES_MAX, Write, WriteOp, Written,
};
