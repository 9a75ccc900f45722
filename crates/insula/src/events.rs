//! Server-sent events as they arrive, one after the other.

use std::time::Duration;

use insula_api::ProblemBody;

use crate::client::Failure;

/// Without a word for so long, a connection is taken for dead: the server says
/// something every ten seconds.
const SILENCE: Duration = Duration::from_secs(30);

/// The longest event.
const EVENT_BYTES_MAX: usize = 64 << 20;

/// An event.
#[derive(Debug, PartialEq, Eq)]
pub struct Event {
    /// Its name.
    pub name: String,
    /// What to come back with.
    pub id: Option<String>,
    /// What it says, in one line.
    pub data: String,
}

/// A stream of them.
pub struct Events {
    response: reqwest::Response,
    text: Vec<u8>,
}

impl Events {
    /// Those of an answer.
    pub fn of(response: reqwest::Response) -> Self {
        Self { response, text: Vec::new() }
    }

    /// The next one; none behind the last. Where the server says why it ends the
    /// stream, that is the failure.
    pub async fn next(&mut self) -> Result<Option<Event>, Failure> {
        loop {
            if let Some(event) = take(&mut self.text) {
                return if event.name == "end" { Err(ended(&event)) } else { Ok(Some(event)) };
            }
            if self.text.len() > EVENT_BYTES_MAX {
                return Err(Failure::local("unexpected_answer", "an event does not end"));
            }
            match tokio::time::timeout(SILENCE, self.response.chunk()).await {
                Ok(Ok(Some(chunk))) => self.text.extend_from_slice(&chunk),
                Ok(Ok(None)) => return Ok(None),
                Ok(Err(error)) => return Err(Failure::local("unreachable", error.to_string())),
                Err(_) => return Err(Failure::local("unreachable", "the server says nothing")),
            }
        }
    }
}

/// Whether another try would not change a failure.
pub fn is_final(failure: &Failure) -> bool {
    matches!(failure, Failure::Problem(problem) if (400..500).contains(&problem.status) && problem.status != 429)
}

/// Takes the first event that is whole.
fn take(text: &mut Vec<u8>) -> Option<Event> {
    let end = text.windows(2).position(|pair| pair == b"\n\n")?;
    let whole: Vec<u8> = text.drain(..end + 2).collect();
    let whole = String::from_utf8_lossy(&whole);
    let field = |name: &str| whole.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
    Some(Event {
        name: field("event: ").unwrap_or_default(),
        id: field("id: "),
        data: field("data: ").unwrap_or_default(),
    })
}

fn ended(event: &Event) -> Failure {
    match serde_json::from_str::<ProblemBody>(&event.data) {
        Ok(problem) => Failure::Problem(Box::new(problem)),
        Err(error) => Failure::local("unexpected_answer", error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_taken_whole_and_in_order() {
        let mut text = b"event: move\nid: 7\ndata: {}\n\nevent: heartbeat\ndata: {}\n\nevent: mo".to_vec();
        let first = take(&mut text).unwrap();
        assert_eq!(
            (first.name.as_str(), first.id.as_deref(), first.data.as_str()),
            ("move", Some("7"), "{}")
        );
        assert_eq!(take(&mut text).unwrap().id, None);
        assert_eq!(take(&mut text), None, "the rest is to come");
        text.extend_from_slice(b"ve\n\n");
        assert_eq!(take(&mut text).unwrap().name, "move");
        assert!(text.is_empty());
    }
}
