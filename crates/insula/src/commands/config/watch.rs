//! Following what a tenant sees: the events of the server, drawn on a terminal
//! with colours, told in lines to a pipe. A connection that ends is made again
//! where it was.

use std::io::IsTerminal;
use std::time::Duration;

use insula_api::{ConfigEvent, ProblemBody};

use super::changes::{Change, Seen};
use crate::args::Format;
use crate::client::{Client, Failure};
use crate::output;

/// Without a word for so long, a connection is taken for dead: the server says
/// something every ten seconds.
const SILENCE: Duration = Duration::from_secs(30);

/// The longest pause before another try.
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// The longest event.
const EVENT_BYTES_MAX: usize = 64 << 20;

/// Follows until it is interrupted, or so many changes were told.
pub async fn run(client: &Client, format: Format, path: &str, changes: Option<usize>) -> Result<(), Failure> {
    let mut follower = Follower::new(format, changes);
    let mut pause = Duration::from_millis(200);
    loop {
        let ended = follower.connected(client, path).await;
        if follower.is_done() {
            return Ok(());
        }
        match ended {
            // The first connection, or what another try would not change.
            Err(failure) if !follower.is_known() || is_final(&failure) => return Err(failure),
            Err(failure) => {
                output::note(&format!("the watch has ended ({failure}); it goes on where it was"))
            }
            Ok(()) => {}
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

fn is_final(failure: &Failure) -> bool {
    matches!(failure, Failure::Problem(problem) if (400..500).contains(&problem.status) && problem.status != 429)
}

struct Follower {
    seen: Seen,
    last_id: Option<String>,
    format: Format,
    is_terminal: bool,
    told: usize,
    most: Option<usize>,
}

impl Follower {
    fn new(format: Format, most: Option<usize>) -> Self {
        let is_terminal = std::io::stdout().is_terminal();
        Self { seen: Seen::default(), last_id: None, format, is_terminal, told: 0, most }
    }

    fn is_known(&self) -> bool {
        self.seen.count().is_some()
    }

    fn is_done(&self) -> bool {
        self.most.is_some_and(|most| self.told >= most)
    }

    async fn connected(&mut self, client: &Client, path: &str) -> Result<(), Failure> {
        let mut response = client.events(path, self.last_id.as_deref()).await?;
        let mut text = Vec::new();
        loop {
            let chunk = match tokio::time::timeout(SILENCE, response.chunk()).await {
                Ok(Ok(Some(chunk))) => chunk,
                Ok(Ok(None)) => return Ok(()),
                Ok(Err(error)) => return Err(Failure::local("unreachable", error.to_string())),
                Err(_) => return Err(Failure::local("unreachable", "the server says nothing")),
            };
            text.extend_from_slice(&chunk);
            while let Some(end) = text.windows(2).position(|pair| pair == b"\n\n") {
                let event: Vec<u8> = text.drain(..end + 2).collect();
                self.event(&String::from_utf8_lossy(&event))?;
                if self.is_done() {
                    return Ok(());
                }
            }
            if text.len() > EVENT_BYTES_MAX {
                return Err(Failure::local("unexpected_answer", "an event does not end"));
            }
        }
    }

    fn event(&mut self, text: &str) -> Result<(), Failure> {
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name));
        let (name, data) = (field("event: ").unwrap_or_default(), field("data: ").unwrap_or_default());
        let unread = |error: serde_json::Error| Failure::local("unexpected_answer", error.to_string());
        if name == "end" {
            let problem: ProblemBody = serde_json::from_str(data).map_err(unread)?;
            return Err(Failure::Problem(Box::new(problem)));
        }
        let event: ConfigEvent = serde_json::from_str(data).map_err(unread)?;
        if let Some(id) = field("id: ") {
            self.last_id = Some(id.to_owned());
        }
        let was_known = self.is_known();
        for change in self.seen.take(name, &event) {
            if !self.is_done() {
                self.tell(&change)?;
                self.told += 1;
            }
        }
        if let (false, Some(count)) = (was_known, self.seen.count()) {
            output::note(&format!("watching {count} values from revision {}", event.revision));
        }
        Ok(())
    }

    fn tell(&self, change: &Change) -> Result<(), Failure> {
        if self.format == Format::Json {
            let line = serde_json::to_string(change)
                .map_err(|error| Failure::local("unexpected_answer", error.to_string()))?;
            output::line(&line);
        } else if self.is_terminal {
            output::line(&drawn(change));
        } else {
            output::line(&tabbed(change));
        }
        Ok(())
    }
}

/// With colours: red is gone, green is new.
fn drawn(change: &Change) -> String {
    let (red, green, bold, dim, plain) = ("\u{1b}[31m", "\u{1b}[32m", "\u{1b}[1m", "\u{1b}[2m", "\u{1b}[0m");
    let old = printable(change.old.as_deref().unwrap_or("(nothing)"));
    let new = printable(change.new.as_deref().unwrap_or("(nothing)"));
    let place = match (&change.scope, change.version) {
        (Some(scope), Some(version)) => format!("{scope} version {version}, "),
        _ => String::new(),
    };
    format!(
        "{bold}{}{plain}  {red}{old}{plain} → {green}{new}{plain}  {dim}{place}revision {}{plain}",
        printable(&change.key),
        change.revision
    )
}

/// What somebody has stored does not steer the terminal.
fn printable(text: &str) -> String {
    text.chars().map(|character| if character.is_control() { '\u{fffd}' } else { character }).collect()
}

fn tabbed(change: &Change) -> String {
    let dash =
        |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned()).replace(['\t', '\n'], " ");
    let version = change.version.map_or_else(|| "-".to_owned(), |version| version.to_string());
    [
        change.revision.to_string(),
        change.key.clone(),
        dash(&change.old),
        dash(&change.new),
        dash(&change.scope),
        version,
    ]
    .join("\t")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_a_line_without_what_steers_a_terminal() {
        let change = Change {
            revision: 7,
            key: "tenant_config_a".to_owned(),
            old: Some("\u{1b}[2J".to_owned()),
            new: None,
            scope: None,
            version: None,
        };
        assert_eq!(tabbed(&change), "7\ttenant_config_a\t\u{1b}[2J\t-\t-\t-");
        let drawn = drawn(&change);
        assert!(!drawn.contains("\u{1b}[2J") && drawn.contains("\u{1b}[32m(nothing)"), "{drawn}");
    }
}
