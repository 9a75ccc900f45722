//! Attempts with steps of their own: notifications, advisory locks and cancels
//! need both sides at the same time.

use std::pin::Pin;
use std::time::Duration;

use bytes::BytesMut;
use insula_pg_wire::startup::{CancelKey, CancelSecret, put_cancel_request};
use tokio::time::timeout;

use crate::run::{Field, Finding};
use crate::session::{Answer, Gone, Login};

/// The steps of an attempt.
pub(crate) type Routine = for<'a> fn(&'a mut Field) -> Steps<'a>;

type Steps<'a> = Pin<Box<dyn Future<Output = Result<Finding, Gone>> + Send + 'a>>;

/// Ways to say something to all that listen.
const NOTIFIES: [&str; 4] = [
    "notify insula_attack, '{word}'",
    "select pg_catalog.pg_notify('insula_attack', '{word}')",
    "do $$ begin perform pg_catalog.pg_notify('insula_attack', '{word}'); end $$",
    "do $$ begin execute 'notify insula_attack, ''{word}'''; end $$",
];

const LISTENS: [&str; 2] = ["listen insula_attack", "do $$ begin execute 'listen insula_attack'; end $$"];

fn told(answers: &[Answer]) -> String {
    let refused = answers.iter().filter(|answer| !answer.errors.is_empty()).count();
    format!("{refused} of {} statements refused, and nothing was heard", answers.len())
}

/// The attacker listens while the victim speaks.
pub(crate) fn hears_the_victim(field: &mut Field) -> Steps<'_> {
    Box::pin(async move {
        let mut attacker = field.attacker.session().await?;
        let mut answers = Vec::new();
        for listen in LISTENS {
            answers.push(attacker.ask(listen).await?);
        }
        let word = field.ground.word("token").to_owned();
        let mut victim = field.victim.session().await?;
        for notify in NOTIFIES {
            answers.push(victim.ask(&notify.replace("{word}", &word)).await?);
        }
        let mut heard = attacker.ask("select 1").await?;
        heard.and(attacker.ask("select 1").await?);
        let said = told(&answers);
        Ok(match field.ground.secret_in(&heard.raw) {
            Some(word) => Finding::breached(word, "the attacker hears what the victim notifies"),
            None => Finding::held(said),
        })
    })
}

/// The victim listens while the attacker speaks.
pub(crate) fn speaks_to_the_victim(field: &mut Field) -> Steps<'_> {
    Box::pin(async move {
        const WORD: &str = "from-the-attacker";
        let mut victim = field.victim.session().await?;
        let mut answers = Vec::new();
        for listen in LISTENS {
            answers.push(victim.ask(listen).await?);
        }
        let mut attacker = field.attacker.session().await?;
        for notify in NOTIFIES {
            answers.push(attacker.ask(&notify.replace("{word}", WORD)).await?);
        }
        let mut heard = victim.ask("select 1").await?;
        heard.and(victim.ask("select 1").await?);
        let is_heard = String::from_utf8_lossy(&heard.raw).contains(WORD);
        Ok(if is_heard {
            Finding::breached(WORD, "the victim hears what the attacker notifies")
        } else {
            Finding::held(told(&answers))
        })
    })
}

/// One side takes a lock by number, and the other sees whether it is taken.
async fn locks(field: &mut Field, attacker_first: bool, take: &str, probe: &str) -> Result<Finding, Gone> {
    let (mut attacker, mut victim) = (field.attacker.session().await?, field.victim.session().await?);
    let (first, second) =
        if attacker_first { (&mut attacker, &mut victim) } else { (&mut victim, &mut attacker) };
    let taken = first.ask(take).await?;
    let probed = second.ask(&format!("set statement_timeout = '2s'; {probe}")).await?;
    let saw = format!(
        "taking it: {}; probing: {}",
        taken.errors.first().map_or("done", |error| &error.1),
        probed
            .errors
            .first()
            .map_or_else(|| probed.values().collect::<Vec<_>>().join(","), |error| error.1.clone()),
    );
    let blocked = probed.values().any(|value| value == "f");
    let waited = probed.errors.iter().any(|(code, _)| code == "57014");
    Ok(if taken.errors.is_empty() && (blocked || waited) {
        Finding::breached(saw, "one tenant's lock is the other's")
    } else {
        Finding::held(saw)
    })
}

/// A number for locks that no application uses but by chance.
fn number(field: &Field) -> u32 {
    let token = field.ground.word("token");
    let digits = token.get(token.len().saturating_sub(7)..).unwrap_or("1");
    u32::from_str_radix(digits, 16).unwrap_or(1)
}

/// The victim's lock, as the attacker sees it.
pub(crate) fn sees_a_lock(field: &mut Field) -> Steps<'_> {
    Box::pin(async move {
        let number = number(field);
        let (take, probe) = (
            format!("select pg_catalog.pg_advisory_lock({number})"),
            format!("select pg_catalog.pg_try_advisory_lock({number})"),
        );
        locks(field, false, &take, &probe).await
    })
}

/// The same with the lock of a transaction and two numbers.
pub(crate) fn sees_a_lock_of_a_transaction(field: &mut Field) -> Steps<'_> {
    Box::pin(async move {
        let number = number(field);
        let take = format!("begin; select pg_catalog.pg_advisory_xact_lock({number}, 1)");
        locks(field, false, &take, &format!("select pg_catalog.pg_try_advisory_xact_lock({number}, 1)")).await
    })
}

/// The attacker's lock, in which the victim would wait.
pub(crate) fn stops_by_a_lock(field: &mut Field) -> Steps<'_> {
    Box::pin(async move {
        let take = format!("select pg_catalog.pg_advisory_lock({})", number(field));
        locks(field, true, &take, &take).await
    })
}

/// The victim's locks, in the list of all.
pub(crate) fn lists_locks(field: &mut Field) -> Steps<'_> {
    Box::pin(async move {
        let mut victim = field.victim.session().await?;
        let number = number(field).to_string();
        let taken = victim.ask(&format!("select pg_catalog.pg_advisory_lock({number})")).await?;
        let mut attacker = field.attacker.session().await?;
        let listed = attacker
            .ask(
                "select (classid::bigint << 32 | objid::bigint)::text from pg_catalog.pg_locks \
                 where locktype = 'advisory'",
            )
            .await?;
        let saw = listed
            .errors
            .first()
            .map_or_else(|| format!("{} locks", listed.rows.len()), |(code, text)| format!("{code} {text}"));
        let is_there = taken.errors.is_empty() && listed.values().any(|value| value == number);
        Ok(if is_there {
            Finding::breached(saw, "the attacker sees the number of the victim's lock")
        } else {
            Finding::held(saw)
        })
    })
}

/// How long a cancel that has been taken would need at the most to be seen: what
/// does not happen cannot be waited for otherwise.
const CANCEL_SHOWS: Duration = Duration::from_millis(150);

/// Sends cancels while the victim works, and at last the right one: only where
/// that one ends the victim's statement were the others sent to something that
/// could have been cancelled.
async fn cancels(
    field: &mut Field,
    keys: impl Fn(CancelKey, CancelKey) -> Vec<CancelKey>,
) -> Result<Finding, Gone> {
    let attacker = field.attacker.session().await?;
    let mut victim = field.victim.session().await?;
    let (Some(own), Some(theirs)) = (attacker.key.clone(), victim.key.clone()) else {
        return Ok(Finding::untried("the front gives no cancel keys"));
    };
    let keys = keys(own, theirs.clone());
    let login = field.attacker.clone();
    // Both are with the server when the first is answered.
    victim.begin("select 1").await?;
    victim.begin("select pg_catalog.pg_sleep(30)").await?;
    victim.answer(None).await?;
    for key in &keys {
        cancel(&login, key).await?;
    }
    if let Ok(answer) = timeout(CANCEL_SHOWS, victim.answer(None)).await {
        let saw = answer.map_or_else(|gone| gone.to_string(), |answer| format!("{:?}", answer.errors));
        return Ok(Finding::breached(saw, "the victim's statement was cancelled"));
    }
    let mut tries = 0;
    let ended = loop {
        cancel(&login, &theirs).await?;
        match timeout(CANCEL_SHOWS, victim.answer(None)).await {
            Ok(answer) => break answer?,
            Err(_) if tries == RIGHT_CANCELS => {
                return Ok(Finding::untried("the victim's own key cancels nothing"));
            }
            Err(_) => tries += 1,
        }
    };
    drop(attacker);
    Ok(if ended.errors.first().is_some_and(|(code, _)| code == "57014") {
        Finding::held(format!("{} requests did nothing, and the victim's own did", keys.len()))
    } else {
        Finding::untried("the victim's own key cancels nothing")
    })
}

/// How often the right cancel is tried.
const RIGHT_CANCELS: u32 = 20;

async fn cancel(login: &Login, key: &CancelKey) -> Result<(), Gone> {
    let mut out = BytesMut::new();
    put_cancel_request(&mut out, key);
    login.knock().await?.say_until_closed(&out).await.map(drop)
}

/// The victim's number with guessed secrets.
pub(crate) fn cancels_by_guess(field: &mut Field) -> Steps<'_> {
    Box::pin(cancels(field, |own, theirs| {
        let secret = theirs.secret.as_bytes();
        let (mut next, inverse) = (secret.to_vec(), secret.iter().map(|byte| !byte).collect::<Vec<_>>());
        next[secret.len() - 1] ^= 1;
        let longer = [secret, &[0]].concat();
        let guesses = [&[0; 4][..], &[0, 0, 0, 1], &[255; 4], &[0; 32], &next, &inverse, &longer];
        let guesses = guesses.iter().filter_map(|guess| CancelSecret::new(guess).ok());
        let key = |secret| CancelKey { process_id: theirs.process_id, secret };
        guesses.chain([own.secret]).map(key).collect()
    }))
}

/// The attacker's own key, whose backend may be the victim's next.
pub(crate) fn cancels_by_own_key(field: &mut Field) -> Steps<'_> {
    Box::pin(cancels(field, |own, _| std::iter::repeat_n(own, 5).collect()))
}

/// The victim's key with its halves changed over, and with numbers beside it.
pub(crate) fn cancels_by_neighbours(field: &mut Field) -> Steps<'_> {
    Box::pin(cancels(field, |own, theirs| {
        let with = |process_id| CancelKey { process_id, secret: theirs.secret.clone() };
        let half = theirs.secret.as_bytes().first_chunk().copied().unwrap_or_default();
        let turned = theirs.process_id.to_be_bytes().into();
        vec![
            CancelKey { process_id: u32::from_be_bytes(half), secret: turned },
            with(own.process_id),
            with(theirs.process_id.wrapping_add(1)),
            with(theirs.process_id.wrapping_sub(1)),
        ]
    }))
}

/// The key of the server process that works for the victim.
pub(crate) fn cancels_by_the_servers_number(field: &mut Field) -> Steps<'_> {
    Box::pin(async move {
        let pid = field.ground.word("pid").parse().unwrap_or(0);
        cancels(field, move |own, theirs| {
            let secrets = [own.secret, theirs.secret, [0; 4].into()];
            secrets.map(|secret| CancelKey { process_id: pid, secret }).to_vec()
        })
        .await
    })
}
