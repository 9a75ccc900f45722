//! Ids. Each kind is a type of its own, so that one can never stand where
//! another is meant. All are UUIDv7 (RFC 9562 §5.7): random enough to be
//! unguessable to a degree, and ordered by the time they were made.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::ambient::{Clock, Entropy};

fn uuid_v7(clock: &dyn Clock, entropy: &dyn Entropy) -> Uuid {
    let millis = clock.now().unix_timestamp_nanos() / 1_000_000;
    let mut random = [0_u8; 10];
    entropy.fill(&mut random);
    // A clock before 1970 gives the id of 1970: still unique by its 74 random bits.
    uuid::Builder::from_unix_timestamp_millis(u64::try_from(millis).unwrap_or(0), &random).into_uuid()
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
        #[serde(transparent)]
        #[schema(value_type = Uuid)]
        pub struct $name(Uuid);

        impl $name {
            /// A new id, made of the time and of random bits.
            #[must_use]
            pub fn generate(clock: &dyn Clock, entropy: &dyn Entropy) -> Self {
                Self(uuid_v7(clock, entropy))
            }

            /// The id as the UUID that the stores keep.
            #[must_use]
            pub const fn as_uuid(self) -> Uuid {
                self.0
            }
        }

        impl From<Uuid> for $name {
            fn from(uuid: Uuid) -> Self {
                Self(uuid)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.parse().map(Self)
            }
        }
    };
}

id! {
    /// Who a tenant is, for ever: it survives every rename and every move.
    TenantId
}
id! {
    /// A long operation: the run of a workflow, as its users see it.
    OperationId
}
id! {
    /// A database login.
    LoginId
}
id! {
    /// An API key.
    ApiKeyId
}

impl TenantId {
    /// The id without dashes, as it stands in the names of roles, schemas and
    /// databases: 32 hexadecimal digits in lower case.
    #[must_use]
    pub fn simple(self) -> String {
        self.as_uuid().simple().to_string()
    }
}

/// A version of the app schema: 0 is the empty one, each version adds 1.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize, ToSchema,
)]
#[serde(transparent)]
#[schema(value_type = i32)]
pub struct SchemaVersion(pub i32);

impl fmt::Display for SchemaVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
