//! Messages about prepared statements that were sent, and what each means once
//! it is answered, or skipped behind an error.

use std::sync::Arc;

use bytes::Bytes;
use insula_session_sql::Effects;

use crate::prepared::{Dropped, Gone, Statement};

/// A message about prepared statements.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    /// The client's, which goes on as it is.
    Plain,
    /// The client's `Parse` by a name that it has given already.
    Again,
    /// The client's `Parse` or `Close` of the unnamed statement, and what that was
    /// before.
    Unnamed(Option<Box<Unnamed>>),
    /// The client's `Parse` of a statement under this name of its own.
    Parse(Arc<Statement>, Bytes),
    /// The front's `Close` or `Parse` of a statement that is nobody's.
    Hidden,
    /// The front's `Parse` of a statement that the backend did not have.
    Given(Arc<Statement>),
    /// The front's `Parse` of the session's unnamed statement.
    GivenUnnamed,
    /// A `Close` that takes the place of a `Parse` which the backend does not
    /// need: its answer is turned into that of a `Parse`. With the client's name.
    KnownAlready(Bytes),
    /// The client's `Close` of a statement.
    Close(Box<Gone>),
    /// The client's statement that a DEALLOCATE takes away. It is not answered of
    /// itself, but when the DEALLOCATE is done.
    Deallocated(Box<Gone>),
    /// The front's `Close` of a statement that has to go.
    Dropped(Dropped),
    /// The client's `Describe` of a statement: of which, and what it calls it,
    /// where that is to be noted.
    Describe(Option<(Arc<Statement>, Bytes)>),
    /// The client's `Describe` of a portal, and the same of its statement.
    DescribePortal(Option<(Arc<Statement>, Bytes)>),
    /// The front's `Describe` of a statement that is to run.
    Check(Arc<Statement>),
}

/// The unnamed prepared statement.
#[derive(Debug, Clone, Default)]
pub(crate) struct Unnamed {
    /// Its `Parse`, whole; empty where there is none.
    pub parse: Bytes,
    /// The client's own, where it was changed to fit where it goes.
    pub own: Bytes,
    /// The backend that the session has now has it.
    pub is_there: bool,
    /// What it leaves behind each time that it runs; `None` is nothing.
    pub effects: Option<Arc<Effects>>,
}

/// What was sent behind what was skipped, and changes the unnamed statement too.
#[derive(Debug)]
pub(crate) enum Behind<'a> {
    /// Nothing: it is as it was before.
    Nothing,
    /// This, before which it was so.
    Step(&'a mut Option<Box<Unnamed>>),
    /// A `Query`, which takes it away.
    Query,
}

impl Step {
    /// Bytes that it keeps of an unnamed statement.
    pub(super) fn unnamed_bytes(&self) -> usize {
        match self {
            Self::Unnamed(Some(before)) => before.parse.len() + before.own.len(),
            _ => 0,
        }
    }

    /// Whether it says what statements there are.
    pub(super) fn is_unsure(&self) -> bool {
        match self {
            Self::Parse(..)
            | Self::Given(_)
            | Self::KnownAlready(_)
            | Self::Close(_)
            | Self::Dropped(_)
            | Self::Deallocated(_) => true,
            Self::Plain
            | Self::Hidden
            | Self::Again
            | Self::Unnamed(_)
            | Self::GivenUnnamed
            | Self::Describe(_)
            | Self::DescribePortal(_)
            | Self::Check(_) => false,
        }
    }

    /// Whether it says whether there is a statement of this name, or this one.
    pub(super) fn is_about(&self, name: &[u8], statement: Option<&Arc<Statement>>) -> bool {
        let is_same = |other: &Arc<Statement>| statement.is_some_and(|own| Arc::ptr_eq(own, other));
        match self {
            Self::Parse(made, own) => own == name || is_same(made),
            Self::KnownAlready(own) => own == name,
            Self::Close(gone) => gone.name == name,
            Self::Deallocated(gone) => gone.name == name || is_same(&gone.statement),
            Self::Given(made) => is_same(made),
            Self::Dropped(dropped) => statement.is_some_and(|own| dropped.is(own)),
            _ => false,
        }
    }

    /// The same of the unnamed one.
    pub(super) fn is_about_unnamed(&self) -> bool {
        matches!(self, Self::Unnamed(_) | Self::GivenUnnamed)
    }
}
