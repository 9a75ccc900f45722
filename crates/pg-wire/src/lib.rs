//! The messages of PostgreSQL's frontend/backend protocol, versions 3.0 and 3.2: parsed
//! and written as far as a front needs them, and a stream cut into messages
//! without holding the large ones. Pure, and total: no bytes make it panic.
//! Source: PostgreSQL's documentation, chapter "Frontend/Backend Protocol".

pub mod backend;
mod cursor;
mod error;
mod fields;
pub mod frontend;
mod message;
mod put;
mod scan;
pub mod startup;

pub use error::{NulInText, WireError};
pub use fields::{ErrorFields, Severity};
pub use message::{Header, Message, TransactionStatus, read_message};
pub use scan::{BEGINNING_BYTES_MAX, Handling, Scanner, Step};
