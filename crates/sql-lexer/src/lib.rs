//! What the statements of an SQL text begin with, by PostgreSQL's own lexical
//! rules (its manual, section 4.1, and `scan.l`), without holding the text and
//! without knowing the session's settings. Pure, and total: no bytes make it
//! panic.
//!
//! Two settings decide how PostgreSQL reads a text, and whoever stands between
//! a client and a server cannot be sure of them while earlier messages are
//! under way: `standard_conforming_strings` (whether a backslash in a plain
//! string protects what follows), and `client_encoding` (in some encodings a
//! character's second byte looks like a backslash or a letter; the server
//! converts the text before it reads it). So a text is read in every way that
//! may be the server's at once. The ways part only at a backslash or behind a
//! byte of a foreign character, and mostly meet again a character later. The
//! strictest one counts, except where it ends within a quotation: a server that
//! read the text so would refuse all of it.
//!
//! [`Reader`] has the beginnings of statements judged; [`Walk`] tells of every
//! token, in every reading.

mod class;
mod follow;
mod reader;
mod reading;
#[cfg(test)]
mod tests;
mod token;
mod walk;

pub use follow::Follow;
pub use reader::{Outcome, Reader};
pub use token::{Head, Token, Word};
pub use walk::Walk;
