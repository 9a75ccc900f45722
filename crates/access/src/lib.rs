//! Who calls: an operator, by a bearer token or by e-mail and password (HTTP
//! Basic, RFC 7617), or a tenant, by its API key; all from the catalog. There is
//! no other way in, and nothing else that a client sends ever says who somebody
//! is. Wrong credentials are throttled.

mod arrival;
mod credential;
mod held;
mod throttle;
mod verify;

use std::net::IpAddr;
use std::sync::Arc;

use insula_catalog::Catalog;
use insula_credentials::{ScramVerifier, Secret};
use insula_domain::{Clock, Entropy};
use insula_problem::{Code, Problem};
use tokio::sync::Semaphore;

pub use arrival::{Arrival, Guests};
pub use credential::Credential;
pub use held::{Holder, Pass};
pub use throttle::{Attempt, Claim, Hashing, Throttle};

/// From where a request came: the other end of its connection. Whoever serves
/// a router puts it into the extensions of each request.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub IpAddr);

/// Questions about credentials that are put to the catalog at once: there are
/// others who need its connections.
const LOOKUPS: usize = 4;

/// Verifies credentials.
#[derive(Debug)]
pub struct Access {
    catalog: Catalog,
    throttle: Throttle,
    /// What the password of an operator who is not there is checked against.
    nobody: ScramVerifier,
    held: held::Held,
    lookups: Semaphore,
    clock: Arc<dyn Clock>,
}

impl Access {
    /// Verifies by the catalog, and lets each address, and each operator's
    /// name, be wrong so often a minute; 0 is no limit.
    #[must_use]
    pub fn new(catalog: Catalog, wrong_a_minute: u32, clock: Arc<dyn Clock>, entropy: &dyn Entropy) -> Self {
        Self {
            catalog,
            throttle: Throttle::new(wrong_a_minute),
            nobody: ScramVerifier::for_login(&Secret::random(entropy), entropy),
            held: held::Held::default(),
            lookups: Semaphore::new(LOOKUPS),
            clock,
        }
    }
}

/// The answer to a credential that is none, or is none any more.
#[must_use]
pub fn refused(wanted: &str) -> Problem {
    Problem::new(Code::Unauthenticated, format!("This call needs {wanted}."))
}
