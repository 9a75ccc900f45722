//! Where a session stands in the protocol: what the client has asked that is
//! not answered yet, and the state of the transaction. It says when a session
//! is idle, and, once backends are shared, when a backend may be given back.

use std::collections::VecDeque;

use insula_pg_wire::{TransactionStatus, backend, frontend};

/// Questions under way above which no more are read from the client until some
/// are answered.
const AWAITED_MAX: usize = 65_536;

/// What the client has sent, as far as an answer depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Awaited {
    /// `Query` or `FunctionCall`: answered by `ReadyForQuery`.
    Query,
    /// `Sync`: answered by `ReadyForQuery`, unless it falls into a COPY.
    Sync,
    /// `CopyDone` or `CopyFail`, sent before the server asked for the data.
    CopyEnd,
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
}

impl Pipeline {
    /// A session whose backend has just said that it is ready.
    pub fn new() -> Self {
        Self {
            awaited: VecDeque::new(),
            status: TransactionStatus::Idle,
            unsynced: false,
            copying_in: false,
            terminated: false,
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
            }
            frontend::tag::COPY_DONE | frontend::tag::COPY_FAIL => {
                if self.copying_in {
                    self.copy_ends();
                } else if !self.awaited.is_empty() || self.unsynced {
                    self.awaited.push_back(Awaited::CopyEnd);
                }
            }
            frontend::tag::TERMINATE => self.terminated = true,
            frontend::tag::COPY_DATA => {}
            _ => self.unsynced = true,
        }
    }

    /// The server has sent a message of this type, other than `ReadyForQuery`.
    pub fn server_sent(&mut self, tag: u8) {
        match tag {
            backend::tag::COPY_IN_RESPONSE => self.copy_begins(),
            backend::tag::ERROR_RESPONSE if self.copying_in => self.copy_ends(),
            _ => {}
        }
    }

    /// The server asks for COPY data: it ignores every `Sync` from here to the
    /// end of the data, also those that are on their way to it.
    fn copy_begins(&mut self) {
        let first = usize::from(self.awaited.front() == Some(&Awaited::Query));
        let end = self.awaited.iter().position(|awaited| *awaited == Awaited::CopyEnd);
        self.copying_in = end.is_none();
        let ignored = first..end.map_or(self.awaited.len(), |end| end + 1);
        let kept = |awaited: &Awaited| *awaited == Awaited::Query;
        let rest: Vec<_> = self.awaited.drain(ignored).filter(kept).collect();
        for (offset, awaited) in rest.into_iter().enumerate() {
            self.awaited.insert(first + offset, awaited);
        }
    }

    /// The data is over: a `Query` is answered now, the extended protocol waits
    /// for the `Sync` that counts.
    fn copy_ends(&mut self) {
        self.copying_in = false;
        self.unsynced |= self.awaited.front() != Some(&Awaited::Query);
    }

    /// The server has sent `ReadyForQuery`.
    pub fn server_ready(&mut self, status: TransactionStatus) {
        self.status = status;
        self.copying_in = false;
        while let Some(answered) = self.awaited.pop_front() {
            if answered != Awaited::CopyEnd {
                break;
            }
        }
    }

    /// Nothing is under way and no transaction is open.
    pub fn is_idle(&self) -> bool {
        !self.is_busy() && self.status == TransactionStatus::Idle
    }

    /// The server is at work on something, or about to be.
    pub fn is_busy(&self) -> bool {
        !self.awaited.is_empty() || self.unsynced || self.copying_in
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
mod tests {
    use super::*;

    /// Plays a conversation: `>` before what the client sends, `<` before what
    /// the server sends; `<I`, `<T` and `<!` are `ReadyForQuery`. Gives whether
    /// the session is idle after each message.
    fn idle_after(conversation: &str) -> Vec<bool> {
        let mut pipeline = Pipeline::new();
        conversation
            .split_whitespace()
            .map(|message| {
                match message.as_bytes() {
                    [b'>', tag] => pipeline.client_sent(*tag),
                    b"<I" => pipeline.server_ready(TransactionStatus::Idle),
                    b"<T" => pipeline.server_ready(TransactionStatus::InTransaction),
                    b"<!" => pipeline.server_ready(TransactionStatus::Failed),
                    [b'<', tag] => pipeline.server_sent(*tag),
                    _ => panic!("not a message: {message}"),
                }
                pipeline.is_idle()
            })
            .collect()
    }

    fn idle_only_at_the_end(conversation: &str) {
        let idle = idle_after(conversation);
        let (last, before) = idle.split_last().unwrap();
        assert!(*last, "not idle after {conversation}");
        assert!(!before.contains(last), "idle too early in {conversation}: {idle:?}");
    }

    #[test]
    fn a_session_is_idle_when_all_is_answered_and_no_transaction_is_open() {
        idle_only_at_the_end(">Q <T <C <I");
        idle_only_at_the_end(">Q <C <T >Q <E <! >Q <C <I");
        idle_only_at_the_end(">P >B >D >E >S <1 <2 <T <C <I");
        idle_only_at_the_end(">P >H <1 >B >E >H <2 <C >S <I");
        idle_only_at_the_end(">F <V <I");
    }

    #[test]
    fn pipelined_questions_count_each() {
        assert_eq!(idle_after(">Q >Q <I <I"), [false, false, false, true]);
        assert_eq!(idle_after(">P >B >E >S >P >B >E >S <I <I")[8..], [false, true]);
        assert_eq!(idle_after(">Q <I >P"), [false, true, false]);
    }

    #[test]
    fn syncs_within_a_copy_are_not_answered() {
        // The simple protocol: one Query, one answer.
        idle_only_at_the_end(">Q <G >d >d >c <C <I");
        // libpq, extended: the Sync that follows the Execute falls into the
        // COPY; the one after CopyDone counts.
        idle_only_at_the_end(">P >B >E >S <G >d >c >S <C <I");
        idle_only_at_the_end(">P >B >E >S <G >S >d >f >S <E <I");
        // All sent ahead, without waiting for the server.
        idle_only_at_the_end(">P >B >E >S >d >c >S <G <C <I");
        idle_only_at_the_end(">Q >d >c <G <C <I");
        // A query that was pipelined behind the whole COPY still counts.
        assert_eq!(idle_after(">Q >d >c >Q <G <C <I <C <I")[6..], [false, false, true]);
    }

    #[test]
    fn a_copy_that_fails_ends() {
        idle_only_at_the_end(">Q <G >d <E <I");
        idle_only_at_the_end(">P >B >E <G >d <E >S <I");
        // Data still on its way after the failure changes nothing.
        assert_eq!(idle_after(">Q <G >d <E <I >d >c")[4..], [true, true, true]);
    }

    #[test]
    fn leaving_is_noticed_and_questions_are_bounded() {
        let mut pipeline = Pipeline::new();
        for _ in 0..AWAITED_MAX {
            assert!(!pipeline.is_full());
            pipeline.client_sent(b'S');
        }
        assert!(pipeline.is_full());
        pipeline.server_ready(TransactionStatus::Idle);
        assert!(!pipeline.is_full() && pipeline.is_busy() && !pipeline.is_terminated());
        pipeline.client_sent(b'X');
        assert!(pipeline.is_terminated());
    }
}
