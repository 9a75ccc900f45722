//! Where a session stands in the protocol: what was asked that is not answered
//! yet, by the client and by the front itself, and the state of the
//! transaction. It says when a session is idle, and so when its backend may be
//! given back.

mod step;

use std::collections::VecDeque;
use std::sync::Arc;

use insula_pg_wire::{TransactionStatus, backend, frontend};

pub(crate) use self::step::{Behind, Step, Unnamed};
use crate::prepared::{Gone, Statement};

/// Questions under way above which no more are read from the client until some
/// are answered.
const AWAITED_MAX: usize = 16_384;

/// Bytes of unnamed statements that are kept until it is known that others have
/// taken their place.
const UNNAMED_BYTES_MAX: usize = 128 * 1024;

/// What was sent, as far as an answer depends on it.
#[derive(Debug, Clone)]
enum Awaited {
    /// `Query` or `FunctionCall`: answered by `ReadyForQuery`.
    Query,
    /// `Sync`: answered by `ReadyForQuery`, unless it falls into a COPY.
    Sync,
    /// `CopyDone` or `CopyFail`, sent before the server asked for the data. With
    /// whether it can only be the end of what the question right before it
    /// copies, and means nothing to the server once that is answered.
    CopyEnd { of_last: bool },
    /// A `Query` of the front's own.
    Own(Own),
    /// `Parse` or `Close`: answered by its own message, or, behind an error, not
    /// at all.
    Step(Step),
}

impl Awaited {
    /// Whether the server goes on behind it where it has failed before. A `Query`
    /// that is sent before the `Sync` it skips as well: one answer is missing from
    /// there on, so that the session is never idle and keeps its backend.
    fn ends(&self) -> bool {
        matches!(self, Self::Query | Self::Sync | Self::Own(_))
    }

    fn step(&self) -> Option<&Step> {
        match self {
            Self::Step(step) => Some(step),
            _ => None,
        }
    }
}

/// Why the front asks something itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Own {
    /// The session's settings are set on a backend.
    Restore,
    /// The server is asked for them.
    Ask,
    /// The backend forgets what other sessions had from sequences.
    Forget,
    /// What the session began with is set again where it was reset.
    PutBack,
}

/// Where a session stands in the protocol.
#[derive(Debug)]
pub(crate) struct Pipeline {
    awaited: VecDeque<Awaited>,
    status: TransactionStatus,
    /// Messages of the extended protocol have been sent, and no `Sync` yet.
    unsynced: bool,
    /// The server takes COPY data, and ignores `Sync` meanwhile.
    copying_in: bool,
    /// The client has said that it leaves.
    terminated: bool,
    /// Statements that were done, to be compared.
    done: u32,
    /// How often `ReadyForQuery` has come, to be compared.
    answered: u32,
    passed: Passed,
    /// The server has failed at something, and skips what was asked with it.
    failed: bool,
    /// What DEALLOCATEs take away that the server may come to now.
    deallocated: Vec<Gone>,
    /// Bytes of the unnamed statements that were before others.
    unnamed_bytes: usize,
    /// Statements that were made or taken away, which is not answered yet.
    unsure: usize,
    /// All prepared statements may be gone behind the next `Sync`.
    drops_with_sync: bool,
    /// So many answers further it is known whether they are.
    until_dropped: usize,
}

/// What has passed since it was asked last.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Passed {
    /// Transactions that have ended.
    pub transactions: u32,
    /// Errors of the server.
    pub errors: u32,
}

impl Pipeline {
    /// A session that has asked nothing.
    pub fn new() -> Self {
        Self {
            awaited: VecDeque::new(),
            status: TransactionStatus::Idle,
            unsynced: false,
            copying_in: false,
            terminated: false,
            done: 0,
            answered: 0,
            passed: Passed::default(),
            failed: false,
            deallocated: Vec::new(),
            unnamed_bytes: 0,
            unsure: 0,
            drops_with_sync: false,
            until_dropped: 0,
        }
    }

    /// The client has sent a message of this type.
    pub fn client_sent(&mut self, tag: u8) {
        match tag {
            frontend::tag::QUERY | frontend::tag::FUNCTION_CALL => self.awaited.push_back(Awaited::Query),
            frontend::tag::SYNC => {
                self.unsynced = false;
                if !self.copying_in {
                    self.awaited.push_back(Awaited::Sync);
                }
                if std::mem::take(&mut self.drops_with_sync) {
                    self.until_dropped = self.ends();
                }
            }
            frontend::tag::COPY_DONE | frontend::tag::COPY_FAIL => {
                if self.copying_in {
                    self.copy_ends();
                } else if !self.awaited.is_empty() || self.unsynced {
                    self.awaited.push_back(Awaited::CopyEnd { of_last: !self.unsynced });
                }
            }
            frontend::tag::TERMINATE => self.terminated = true,
            frontend::tag::COPY_DATA => {}
            _ => self.unsynced = true,
        }
    }

    /// The front asks something itself, behind all that was asked.
    pub fn asks(&mut self, own: Own) {
        self.awaited.push_back(Awaited::Own(own));
    }

    /// The same, before the message that the client has sent last, a `Query`
    /// or the first of the extended protocol.
    pub fn asks_before(&mut self, own: Own) {
        let is_query = matches!(self.awaited.back(), Some(Awaited::Query));
        let at = self.awaited.len() - usize::from(is_query);
        self.awaited.insert(at, Awaited::Own(own));
    }

    /// Whether nothing of the client's is under way: what the front itself asks
    /// between two turns does not count.
    pub fn is_quiet(&self) -> bool {
        let is_own = |awaited: &Awaited| matches!(awaited, Awaited::Own(_));
        !self.unsynced && !self.copying_in && self.awaited.iter().all(is_own)
    }

    /// The same, and no transaction is open.
    pub fn is_at_rest(&self) -> bool {
        self.status == TransactionStatus::Idle && self.is_quiet()
    }

    /// What the front itself has asked that is being answered now.
    pub fn answers_own(&self) -> Option<Own> {
        match self.awaited.front() {
            Some(Awaited::Own(own)) => Some(*own),
            _ => None,
        }
    }

    /// A message about prepared statements goes out, behind all the others.
    pub fn steps(&mut self, step: Step) {
        self.unnamed_bytes += step.unnamed_bytes();
        self.unsure += usize::from(step.is_unsure());
        self.awaited.push_back(Awaited::Step(step));
        self.sets_aside();
    }

    /// The same, before the `Query` that was sent last.
    pub fn steps_before_query(&mut self, step: Step) {
        self.unsure += usize::from(step.is_unsure());
        let at = self.awaited.len().saturating_sub(1);
        self.awaited.insert(at, Awaited::Step(step));
        self.sets_aside();
    }

    /// Nothing stands in front that has no answer of its own.
    fn sets_aside(&mut self) {
        while let Some(Awaited::Step(Step::Deallocated(_))) = self.awaited.front() {
            if let Some(Awaited::Step(Step::Deallocated(gone))) = self.awaited.pop_front() {
                self.deallocated.push(*gone);
            }
        }
    }

    /// A DEALLOCATE is done; false where it is not known of what.
    pub fn deallocates(&mut self) -> bool {
        let is_known = !self.deallocated.is_empty();
        self.unsure -= self.deallocated.drain(..usize::from(is_known)).len();
        is_known
    }

    /// What the client has sent last may take all prepared statements away.
    pub fn may_drop_all(&mut self) {
        if self.unsynced {
            self.drops_with_sync = true;
        } else {
            self.until_dropped = self.ends();
        }
    }

    /// They may be gone when the server comes to what is sent now, and nothing
    /// says so before the next `Sync`.
    pub fn drops_with_sync(&self) -> bool {
        self.drops_with_sync
    }

    /// Whether it is not known yet if all prepared statements are gone, and will
    /// be without anything more from the client.
    pub fn may_have_dropped_all(&self) -> bool {
        self.until_dropped > 0
    }

    /// Whether anything was made or taken away of which it is not known yet
    /// whether it was.
    pub fn is_unsure(&self) -> bool {
        self.unsure > 0
    }

    /// Whether it is not known yet if the client has a statement of this name, or
    /// if the backend has what it stands for, though it will be without anything
    /// more from the client. Within what ends with the same `Sync` nothing
    /// depends on it: behind an error all of that is skipped. It is asked for a
    /// message of this type, which the client has sent last.
    pub fn is_in_doubt(&self, tag: u8, name: &[u8], statement: Option<&Arc<Statement>>) -> bool {
        let own = usize::from(tag == frontend::tag::QUERY);
        self.is_unsure() && self.any_before_last_end(own, |step| step.is_about(name, statement))
    }

    /// The same of the unnamed statement, which is known where it was made since.
    pub fn is_unnamed_in_doubt(&self) -> bool {
        let since = self.awaited.iter().rev().take_while(|awaited| !awaited.ends());
        let mut since = since.filter_map(Awaited::step);
        !since.any(Step::is_about_unnamed) && self.any_before_last_end(0, Step::is_about_unnamed)
    }

    /// Without so many of the last.
    fn any_before_last_end(&self, without: usize, is_it: impl Fn(&Step) -> bool) -> bool {
        let others = self.awaited.range(..self.awaited.len().saturating_sub(without));
        let last = others.into_iter().rposition(Awaited::ends);
        let set_aside =
            || self.deallocated.iter().any(|gone| is_it(&Step::Deallocated(Box::new(gone.clone()))));
        last.is_some_and(|last| {
            self.awaited.range(..last).filter_map(Awaited::step).any(&is_it) || set_aside()
        })
    }

    /// What changes the unnamed statement next, of what is awaited.
    pub fn behind(&mut self) -> Behind<'_> {
        for awaited in &mut self.awaited {
            match awaited {
                Awaited::Step(Step::Unnamed(before)) => return Behind::Step(before),
                Awaited::Query => return Behind::Query,
                _ => {}
            }
        }
        Behind::Nothing
    }

    /// Whether as much is kept of unnamed statements as may be.
    pub fn keeps_enough(&self) -> bool {
        self.unnamed_bytes > UNNAMED_BYTES_MAX
    }

    /// How often `ReadyForQuery` is to come for what was sent.
    fn ends(&self) -> usize {
        self.awaited.iter().filter(|awaited| awaited.ends()).count()
    }

    /// Whether the next answer is that to a message about prepared statements.
    pub fn awaits_step(&self) -> bool {
        matches!(self.awaited.front(), Some(Awaited::Step(_)))
    }

    /// Such an answer has come.
    pub fn stepped(&mut self) -> Option<Step> {
        match self.awaited.front() {
            Some(Awaited::Step(_)) => match self.awaited.pop_front() {
                Some(Awaited::Step(step)) => {
                    self.unsure -= usize::from(step.is_unsure());
                    self.unnamed_bytes = self.unnamed_bytes.saturating_sub(step.unnamed_bytes());
                    self.sets_aside();
                    Some(step)
                }
                _ => None,
            },
            _ => None,
        }
    }

    /// The server has sent a message of this type, other than `ReadyForQuery`.
    pub fn server_sent(&mut self, tag: u8) {
        match tag {
            backend::tag::COMMAND_COMPLETE
            | backend::tag::EMPTY_QUERY_RESPONSE
            | backend::tag::PORTAL_SUSPENDED => self.done = self.done.wrapping_add(1),
            backend::tag::COPY_IN_RESPONSE => self.copy_begins(),
            backend::tag::ERROR_RESPONSE => {
                self.passed.errors += 1;
                self.failed = true;
                if self.copying_in {
                    self.copy_ends();
                }
            }
            _ => {}
        }
    }

    /// The server does not look at what is sent now: it has failed at what was
    /// sent before, and there was no `Sync` since.
    pub fn is_skipping(&self) -> bool {
        self.failed && !self.awaited.iter().any(Awaited::ends)
    }

    /// The server skips the description that the front has asked for.
    pub fn skips_check(&self) -> bool {
        let first = |awaited: &&Awaited| awaited.ends() || matches!(awaited, Awaited::Step(Step::Check(_)));
        self.failed && self.awaited.iter().find(first).is_some_and(|first| !first.ends())
    }

    /// Whether the next answer is the description of a statement.
    pub fn awaits_description(&self) -> bool {
        matches!(self.awaited.front(), Some(Awaited::Step(Step::Describe(_) | Step::Check(_))))
    }

    /// Where the next answer is the description of a portal, whether that is to be
    /// noted.
    pub fn awaits_portal(&self) -> Option<bool> {
        match self.awaited.front() {
            Some(Awaited::Step(Step::DescribePortal(of))) => Some(of.is_some()),
            _ => None,
        }
    }

    /// Whether the next answer is that to a `Describe` of the front's.
    pub fn awaits_check(&self) -> bool {
        matches!(self.awaited.front(), Some(Awaited::Step(Step::Check(_))))
    }

    /// The server asks for COPY data: it ignores every `Sync` from here to the
    /// end of the data, also those that are on their way to it.
    fn copy_begins(&mut self) {
        let first = usize::from(matches!(self.awaited.front(), Some(Awaited::Query)));
        let end = self.awaited.iter().position(|awaited| matches!(awaited, Awaited::CopyEnd { .. }));
        self.copying_in = end.is_none();
        if let Some(end) = end
            && first == 0
            && !self.awaited.range(end..).any(Awaited::ends)
        {
            // The end of the data was sent ahead, and the Sync that counts was not.
            self.unsynced = true;
        }
        let ignored = first..end.map_or(self.awaited.len(), |end| end + 1);
        let kept = |awaited: &Awaited| !matches!(awaited, Awaited::Sync | Awaited::CopyEnd { .. });
        let rest: Vec<_> = self.awaited.drain(ignored).filter(kept).collect();
        for (offset, awaited) in rest.into_iter().enumerate() {
            self.awaited.insert(first + offset, awaited);
        }
        self.until_dropped = self.until_dropped.min(self.ends());
        self.sets_aside();
    }

    /// The data is over: a `Query` is answered now, the extended protocol waits
    /// for the `Sync` that counts.
    fn copy_ends(&mut self) {
        self.copying_in = false;
        self.unsynced |= !matches!(self.awaited.front(), Some(Awaited::Query));
    }

    /// The server has sent `ReadyForQuery`. Gives what it has skipped behind an
    /// error, the last first, as it is to be undone.
    pub fn server_ready(&mut self, status: TransactionStatus) -> Vec<Step> {
        self.status = status;
        self.copying_in = false;
        self.failed = false;
        self.done = self.done.wrapping_add(1);
        self.answered = self.answered.wrapping_add(1);
        self.until_dropped = self.until_dropped.saturating_sub(1);
        let set_aside = std::mem::take(&mut self.deallocated);
        self.unsure -= set_aside.len();
        let mut skipped: Vec<Step> =
            set_aside.into_iter().map(|gone| Step::Deallocated(Box::new(gone))).collect();
        while let Some(answered) = self.awaited.pop_front() {
            match answered {
                Awaited::CopyEnd { .. } => {}
                Awaited::Step(step) => {
                    self.unsure -= usize::from(step.is_unsure());
                    self.unnamed_bytes = self.unnamed_bytes.saturating_sub(step.unnamed_bytes());
                    skipped.push(step);
                }
                Awaited::Query | Awaited::Sync => {
                    self.passed.transactions += u32::from(status == TransactionStatus::Idle);
                    break;
                }
                Awaited::Own(_) => break,
            }
        }
        while let Some(Awaited::CopyEnd { of_last: true }) = self.awaited.front() {
            self.awaited.pop_front();
        }
        self.sets_aside();
        skipped.reverse();
        skipped
    }

    /// Something is under way behind which a transaction may be over: all that was
    /// sent is answered without anything more from the client.
    pub fn may_end(&self) -> bool {
        !self.awaited.is_empty() && !self.unsynced && !self.copying_in
    }

    /// Nothing is under way and no transaction is open.
    pub fn is_idle(&self) -> bool {
        !self.is_busy() && self.status == TransactionStatus::Idle
    }

    /// The server is at work on something, or about to be.
    pub fn is_busy(&self) -> bool {
        !self.awaited.is_empty() || self.unsynced || self.copying_in
    }

    /// Another number after each statement that was done.
    pub fn done(&self) -> u32 {
        self.done
    }

    /// Another number after each `ReadyForQuery`.
    pub fn answered(&self) -> u32 {
        self.answered
    }

    /// Whether what the client has asked behind so many answers is under way, and
    /// has not failed, and nothing at all was asked behind it.
    pub fn has_nothing_but_the_one_behind(&self, answered: u32) -> bool {
        let is_it = self.answered == answered && self.is_busy() && !self.failed;
        let is_last = match self.ends() {
            0 => true,
            1 => !self.unsynced && self.awaited.back().is_some_and(Awaited::ends),
            _ => false,
        };
        is_it && is_last && self.answers_own().is_none()
    }

    /// What has passed since this was asked last.
    pub fn take_passed(&mut self) -> Passed {
        std::mem::take(&mut self.passed)
    }

    /// No more is to be read from the client for now.
    pub fn is_full(&self) -> bool {
        self.awaited.len() >= AWAITED_MAX
    }

    /// The client has said that it leaves.
    pub fn is_terminated(&self) -> bool {
        self.terminated
    }
}

#[cfg(test)]
mod tests;
