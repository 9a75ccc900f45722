//! Feature flags as flagd defines them: variants, a default one, and rules in
//! JsonLogic that choose between them. Pure; what a rule may cost is bounded.
//! Source: <https://flagd.dev/reference/flag-definitions/>.

mod definition;
mod fractional;
mod logic;
mod resolve;
mod version;

pub use definition::{FlagDefinition, FlagRefused, SharedRules, State};
pub use fractional::murmur3;
pub use logic::{InvalidRule, Purse, Rule, TooCostly};
pub use resolve::{Asking, Flag, NotResolved, Reason, Resolution};
