//! Whether what an attempt saw is a breach: pure, so that it can be shown to
//! find one.

use crate::attempt::Want;
use crate::ground::Ground;
use crate::session::{Answer, Gone};

/// The most of what was seen that is told, in characters.
const SAW_CHARACTERS_MAX: usize = 240;

/// SQLSTATE of a text that PostgreSQL cannot read: the attempt itself is wrong.
const SYNTAX_ERROR: &str = "42601";

/// What came of a statement: its answer, or the end of the session.
pub(crate) type Result = std::result::Result<Answer, Gone>;

/// Why it is a breach, if it is one.
pub(crate) fn breach(want: Want, answers: &[Result], ground: &Ground) -> Option<String> {
    let given = || answers.iter().filter_map(|answer| answer.as_ref().ok());
    if let Some(secret) = given().find_map(|answer| ground.secret_in(&answer.raw)) {
        return Some(format!("the attacker saw {secret:?}, which only the victim has"));
    }
    match want {
        Want::Unseen | Want::GoesOn => None,
        Want::Nothing => given().find_map(something),
        Want::Refused => {
            let refused =
                matches!(answers.last(), Some(Err(_))) || given().next_back().is_some_and(is_refused);
            (!refused && !answers.is_empty()).then(|| "it was not refused".to_owned())
        }
        Want::Itself => given()
            .flat_map(Answer::values)
            .find(|value| *value != ground.own_role)
            .map(|value| format!("the session is {value:?}, not {:?}", ground.own_role)),
        Want::Without(code) => given()
            .flat_map(|answer| &answer.errors)
            .find(|(found, _)| found == code)
            .map(|(code, text)| format!("the error {code} tells of the victim's: {text}")),
        Want::NotSaying(said) => given()
            .flat_map(Answer::values)
            .find(|value| value.contains(said))
            .map(|value| format!("it says {value:?}")),
    }
}

fn is_refused(answer: &Answer) -> bool {
    !answer.errors.is_empty()
}

/// Rows that came, or were changed.
fn something(answer: &Answer) -> Option<String> {
    let changed = answer.done.iter().find(|done| {
        let count = done.rsplit(' ').next().and_then(|count| count.parse::<u64>().ok());
        count.is_some_and(|count| count > 0)
    });
    match (changed, answer.rows.is_empty()) {
        (Some(done), _) => Some(format!("it came to {done}")),
        (None, false) => Some(format!("{} rows came", answer.rows.len())),
        (None, true) => None,
    }
}

/// Whether a text of the attempt's is none that PostgreSQL can read.
pub(crate) fn is_wrong(answers: &[Result]) -> bool {
    answers.iter().flatten().flat_map(|answer| &answer.errors).any(|(code, _)| code == SYNTAX_ERROR)
}

/// Whether there is neither a value nor a refusal, nor an end: then nothing was
/// shown.
pub(crate) fn says_nothing(answers: &[Result]) -> bool {
    answers
        .iter()
        .all(|answer| answer.as_ref().is_ok_and(|it| it.values().next().is_none() && it.errors.is_empty()))
}

/// What was seen, short, in printable characters.
pub(crate) fn saw(answers: &[Result]) -> String {
    let mut parts: Vec<String> = Vec::new();
    for answer in answers {
        match answer {
            Err(gone) => parts.push(gone.to_string()),
            Ok(answer) => {
                parts.extend(answer.errors.iter().map(|(code, text)| format!("{code} {text}")));
                parts.extend(answer.done.iter().cloned());
                let values: Vec<&str> = answer.values().take(4).collect();
                if !values.is_empty() {
                    parts.push(format!("({})", values.join(", ")));
                }
            }
        }
    }
    if parts.is_empty() {
        return "nothing".to_owned();
    }
    shortened(&parts.join("; "))
}

/// A text on one line, bounded.
pub(crate) fn shortened(text: &str) -> String {
    let printable = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    let mut short: String = printable.take(SAW_CHARACTERS_MAX).collect();
    if text.chars().nth(SAW_CHARACTERS_MAX).is_some() {
        short.push('…');
    }
    short
}
