//! What the text of a statement leaves behind in its PostgreSQL session, so that
//! whoever lends backends to sessions for one transaction at a time knows what
//! must be carried over to the next backend, and what cannot be. Pure, and
//! total: no bytes make it panic, and the time is linear in them.
//!
//! Sources: PostgreSQL's manual (`DISCARD` lists what a session can hold;
//! "Advisory Lock Functions", "Configuration Settings Functions", "Sequence
//! Manipulation Functions"), its grammar (`gram.y`), and its lexical rules as
//! `insula-sql-lexer` reads them.
//!
//! - **Safe first.** A text may be said to leave more than it does, never less:
//!   every way of reading that may be the server's counts, and so do statements
//!   that fail, or are rolled back. Functions are recognised by their names,
//!   wherever they stand and however they are spelled.
//! - **Strings are not statements**, except for the body of a `DO` block. A body
//!   that runs text (`EXECUTE`), is in another language than PL/pgSQL, or is
//!   quoted with escapes makes the text [`Pin::Unclear`]; so do functions that
//!   run text which they are given, such as `query_to_xml`.
//! - **What functions and procedures of the database do cannot be seen.** One
//!   that takes a session's advisory lock, or makes a temporary table, does so
//!   unseen, also as a trigger or a column's default. Neither can a parameter's
//!   value: `set_config('search_path', $1, false)` may name `pg_temp`.
//! - A statement acts when it is executed, not when it is parsed: who parses one
//!   under a name must keep its effects with the name.
//!
//! [`effects`] wants the whole text. [`Watch`] reads one that is too long to be
//! held as it passes, and is coarser: it knows no names of settings, and pins
//! for them.

mod course;
mod effects;
mod names;
mod quick;
mod temporary;
#[cfg(test)]
mod tests;
mod text;
mod watch;

pub use effects::{Deallocated, Effects, Pin, effects};
pub use names::READ_BY;
pub use watch::Watch;
