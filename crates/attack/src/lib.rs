//! The isolation attack suite: everything known that one tenant could try
//! against another, as data with a stable name each, and a runner that tries it
//! through the PostgreSQL front and tells for each what it saw.
//!
//! The runner knows nothing of how the front works: it has a login of the
//! attacker and a login of the victim, and speaks the protocol itself, so that it
//! can also say what no driver would. Whatever the attacker receives is searched
//! for what only the victim has, and the victim's side is asked after each
//! attempt whether all is as it was.

mod attempt;
pub mod corpus;
mod ground;
mod judge;
mod routines;
mod run;
mod session;

pub use attempt::{Attempt, Want};
pub use ground::SetupError;
pub use run::{Outcome, Party, Plan, Verdict, run};
