//! What an attempt is: a name, a group, what it tries, how, and what must not
//! come of it. In texts `{word}` stands for something that the runner knows of
//! the two tenants; see `ground.rs`.

use crate::ground::Ground;
use crate::routines::Routine;

/// One thing that the attacker tries.
#[derive(Debug, Clone, Copy)]
pub struct Attempt {
    /// Its name, which stays the same for ever.
    pub name: &'static str,
    /// What it tries, in one sentence.
    pub tries: &'static str,
    pub(crate) how: How,
}

/// What must not come of it, besides what no attempt may do: see something of
/// the victim's, change its rows, end or stop its session, or become somebody
/// else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    /// Nothing besides.
    Unseen,
    /// No statement gives rows or changes any.
    Nothing,
    /// The last statement is refused.
    Refused,
    /// Every value that comes back is the name of the attacker's own role.
    Itself,
    /// No statement fails with this SQLSTATE, by which something of the
    /// victim's would be told.
    Without(&'static str),
    /// The victim can lock its own row while the attempt's transaction is open.
    GoesOn,
    /// No value that comes back is this text.
    NotSaying(&'static str),
}

/// How an attempt is made.
#[derive(Clone, Copy)]
pub(crate) enum How {
    /// Statements in a session of its own, one message each.
    Sql(Want, &'static [&'static str]),
    /// A session that begins with these parameters and secret, and the statements
    /// in it where it begins.
    Startup(Want, Start, &'static [&'static str]),
    /// Bytes instead of the beginning of a session.
    Knock(fn(&Ground) -> Vec<u8>),
    /// Bytes in a session, then the end of what the attacker sends.
    Bytes(Want, fn(&Ground) -> Vec<u8>),
    /// Statements of one client, whose trace no other client may find.
    Leave(Left),
    /// What needs steps of its own.
    Steps(Routine),
}

/// The beginning of a session.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Start {
    /// Parameters of the startup packet; `user` and `database` are the attacker's
    /// where they are not named.
    pub parameters: &'static [(&'static str, &'static str)],
    /// The secret, where it is not the attacker's.
    pub secret: Option<&'static str>,
}

/// Something left in a session.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Left {
    /// What leaves it.
    pub leave: &'static [&'static str],
    /// What another client looks with.
    pub look: &'static str,
    /// What it would see.
    pub trace: &'static str,
}

impl std::fmt::Debug for How {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Sql(..) => "Sql",
            Self::Startup(..) => "Startup",
            Self::Knock(_) => "Knock",
            Self::Bytes(..) => "Bytes",
            Self::Leave(_) => "Leave",
            Self::Steps(_) => "Steps",
        })
    }
}

/// An attempt of statements.
pub(crate) const fn sql(
    name: &'static str,
    tries: &'static str,
    want: Want,
    statements: &'static [&'static str],
) -> Attempt {
    Attempt { name, tries, how: How::Sql(want, statements) }
}

/// An attempt of a session's beginning, with the attacker's secret.
pub(crate) const fn start(
    name: &'static str,
    tries: &'static str,
    want: Want,
    parameters: &'static [(&'static str, &'static str)],
    statements: &'static [&'static str],
) -> Attempt {
    Attempt { name, tries, how: How::Startup(want, Start { parameters, secret: None }, statements) }
}

/// An attempt of bytes within a session.
pub(crate) const fn bytes(
    name: &'static str,
    tries: &'static str,
    want: Want,
    make: fn(&Ground) -> Vec<u8>,
) -> Attempt {
    Attempt { name, tries, how: How::Bytes(want, make) }
}

/// An attempt of bytes instead of a session's beginning.
pub(crate) const fn knock(name: &'static str, tries: &'static str, make: fn(&Ground) -> Vec<u8>) -> Attempt {
    Attempt { name, tries, how: How::Knock(make) }
}

/// An attempt to leave something for the next client.
pub(crate) const fn leave(
    name: &'static str,
    tries: &'static str,
    leave: &'static [&'static str],
    look: &'static str,
    trace: &'static str,
) -> Attempt {
    Attempt { name, tries, how: How::Leave(Left { leave, look, trace }) }
}

/// An attempt with steps of its own.
pub(crate) const fn steps(name: &'static str, tries: &'static str, routine: Routine) -> Attempt {
    Attempt { name, tries, how: How::Steps(routine) }
}
