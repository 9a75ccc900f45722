//! Conversations, played message by message.

use bytes::Bytes;

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
                b"<I" => drop(pipeline.server_ready(TransactionStatus::Idle)),
                b"<T" => drop(pipeline.server_ready(TransactionStatus::InTransaction)),
                b"<!" => drop(pipeline.server_ready(TransactionStatus::Failed)),
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
fn transactions_and_errors_are_counted_and_what_the_front_asks_is_not() {
    let mut pipeline = Pipeline::new();
    let ready = |pipeline: &mut Pipeline, status| drop(pipeline.server_ready(status));
    pipeline.asks(Own::Restore);
    ready(&mut pipeline, TransactionStatus::Idle);
    for status in [TransactionStatus::InTransaction, TransactionStatus::Failed, TransactionStatus::Idle] {
        pipeline.client_sent(frontend::tag::QUERY);
        if status == TransactionStatus::Failed {
            pipeline.server_sent(backend::tag::ERROR_RESPONSE);
        }
        ready(&mut pipeline, status);
    }
    pipeline.client_sent(frontend::tag::SYNC);
    ready(&mut pipeline, TransactionStatus::Idle);
    assert_eq!(pipeline.take_passed(), Passed { transactions: 2, errors: 1 });
    assert_eq!(pipeline.take_passed(), Passed::default());
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
    // The end ahead of the server's question, the Sync that counts behind all.
    idle_only_at_the_end(">P >B >E >S >c <1 <2 <G <C >S <I");
    idle_only_at_the_end(">P >B >E >S >f <1 <2 <G <E >S <I");
    idle_only_at_the_end(">P >B >E >c <1 <2 <G <C >S <I");
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
fn the_end_of_a_copy_that_there_is_not_is_not_waited_for() {
    // Postgres.js fails each COPY once more when it is done, maybe behind
    // its next question.
    idle_only_at_the_end(">Q >f <T <C <I");
    assert_eq!(idle_after(">P >B >E >S >c >f <C <I")[7..], [true]);
    // Or it was to be one, and has failed.
    idle_only_at_the_end(">Q >d >c <E <I");
    assert_eq!(idle_after(">P >B >E >S >d >c >S <E <I <I")[7..], [false, false, true]);
    // One of what is still to be answered counts.
    assert_eq!(idle_after(">Q >Q >d >c >Q <I <G <C <I <I")[5..], [false, false, false, false, true]);
    assert_eq!(idle_after(">Q >B >E >S >d >c >S >Q <I <G <C <I <I")[8..], [false, false, false, false, true]);
    assert_eq!(idle_after(">S >B >E >d >c >S >Q <I <G <C <I <I")[7..], [false, false, false, false, true]);
}

#[test]
fn what_was_skipped_behind_an_error_is_known() {
    let mut pipeline = Pipeline::new();
    for tag in [b'P', b'S', b'P', b'C', b'S'] {
        pipeline.client_sent(tag);
        match tag {
            b'P' => pipeline.steps(Step::Plain),
            b'C' => pipeline.steps(Step::KnownAlready(Bytes::new())),
            _ => {}
        }
    }
    assert!(matches!(pipeline.stepped(), Some(Step::Plain)) && !pipeline.awaits_step());
    assert!(pipeline.server_ready(TransactionStatus::Idle).is_empty());
    assert!(pipeline.awaits_step());
    pipeline.server_sent(b'E');
    let skipped = pipeline.server_ready(TransactionStatus::Idle);
    assert!(matches!(skipped[..], [Step::KnownAlready(_), Step::Plain]) && pipeline.is_idle());
}

#[test]
fn what_is_skipped_is_known_while_it_waits() {
    let statement = crate::prepared::Statements::default().get(
        &insula_pg_wire::frontend::Parse { name: b"", query: b"", parameter_types: b"\0\0" },
        Some(bytes::Bytes::new()),
    );
    let mut pipeline = Pipeline::new();
    // An error of what was sent before the last Sync is not one of what follows.
    for tag in [b'B', b'E', b'S'] {
        pipeline.client_sent(tag);
    }
    pipeline.server_sent(b'E');
    pipeline.client_sent(b'B');
    assert!(!pipeline.is_skipping());
    pipeline.steps(Step::Check(statement));
    assert!(!pipeline.skips_check() && !pipeline.awaits_check());
    pipeline.server_ready(TransactionStatus::Idle);
    assert!(pipeline.awaits_check() && pipeline.awaits_description() && !pipeline.skips_check());
    pipeline.server_sent(b'E');
    assert!(pipeline.skips_check() && pipeline.is_skipping());
    pipeline.client_sent(b'S');
    assert!(!pipeline.is_skipping(), "what comes behind the Sync is looked at");
    pipeline.server_ready(TransactionStatus::Idle);
    assert!(pipeline.is_idle() && !pipeline.skips_check());
}

#[test]
fn the_fronts_own_questions_stand_in_line() {
    let mut pipeline = Pipeline::new();
    pipeline.asks(Own::Restore);
    pipeline.client_sent(b'Q');
    pipeline.steps_before_query(Step::GivenUnnamed);
    assert_eq!(pipeline.answers_own(), Some(Own::Restore));
    assert!(pipeline.server_ready(TransactionStatus::Idle).is_empty());
    assert!(pipeline.answers_own().is_none() && pipeline.is_busy());
    assert!(matches!(pipeline.stepped(), Some(Step::GivenUnnamed)));
    assert!(pipeline.stepped().is_none(), "the query is answered otherwise");
    pipeline.server_ready(TransactionStatus::Idle);
    assert!(pipeline.is_idle());
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

#[test]
fn what_is_asked_last_is_known_as_long_as_it_is_under_way() {
    let after = |before: &str, answered: u32| {
        let mut pipeline = Pipeline::new();
        for message in before.split_whitespace() {
            match message {
                "own" => pipeline.asks(Own::Ask),
                "own-before" => pipeline.asks_before(Own::Forget),
                "step" => pipeline.steps(Step::Plain),
                "ready" => drop(pipeline.server_ready(TransactionStatus::Idle)),
                "error" => pipeline.server_sent(backend::tag::ERROR_RESPONSE),
                "rows" => pipeline.server_sent(backend::tag::COMMAND_COMPLETE),
                tag => pipeline.client_sent(tag.as_bytes()[0]),
            }
        }
        pipeline.has_nothing_but_the_one_behind(answered)
    };
    for before in ["Q", "Q rows", "P step B E S", "P step B E", "P step B E H", "B E S"] {
        assert!(after(before, 0) && !after(before, 1), "{before}");
        assert!(after(&format!("own ready {before}"), 1), "{before} behind what was put in place");
        for behind in ["ready", "error", "Q", "S", "own", "P", "step"] {
            let all = format!("{before} {behind}");
            let is_its_own = matches!(behind, "S" | "P" | "step") && !before.ends_with(['S', 'Q', 's']);
            assert_eq!(after(&all, 0), is_its_own, "{all}");
        }
        assert!(!after(&format!("{before} ready Q"), 0), "another one");
    }
    assert!(!after("Q own-before", 0) && !after("own", 0) && !after("", 0));
}
