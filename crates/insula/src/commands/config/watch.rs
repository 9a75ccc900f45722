//! Following what a tenant sees: the events of the server, drawn on a terminal
//! with colours, told in lines to a pipe. A connection that ends is made again
//! where it was.

use std::time::Duration;

use insula_api::ConfigEvent;

use super::changes::{Change, Seen};
use super::shortened;
use crate::args::Format;
use crate::client::{Client, Failure};
use crate::events::{Event, Events, is_final};
use crate::output::{self, or_dash};
use crate::visible::visible;

/// The pause before the first other try.
const PAUSE: Duration = Duration::from_millis(200);

/// The longest pause before another try.
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// Follows until it is interrupted, or so many changes were told; from what there
/// is now on, or behind an event.
pub async fn run(
    client: &Client,
    format: Format,
    path: &str,
    (changes, after): (Option<usize>, Option<String>),
) -> Result<(), Failure> {
    let mut follower = Follower::new(format, changes, after);
    let mut pause = PAUSE;
    loop {
        let ended = follower.connected(client, path).await;
        if std::mem::take(&mut follower.has_heard) {
            pause = PAUSE;
        }
        if follower.is_done() {
            return Ok(());
        }
        match ended {
            // The first connection, or what another try would not change.
            Err(failure) if !follower.has_begun || is_final(&failure) => return Err(failure),
            Err(failure) => {
                output::note(&format!("the watch has ended ({failure}); it goes on where it was"))
            }
            Ok(()) => {}
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

struct Follower {
    seen: Seen,
    /// The event that was named at the beginning.
    after: Option<String>,
    last_id: Option<String>,
    format: Format,
    has_begun: bool,
    /// Whether the last connection has said something.
    has_heard: bool,
    told: usize,
    most: Option<usize>,
}

impl Follower {
    fn new(format: Format, most: Option<usize>, after: Option<String>) -> Self {
        let seen = if after.is_some() { Seen::later() } else { Seen::default() };
        let (last_id, has_begun, has_heard) = (after.clone(), false, false);
        Self { seen, last_id, after, format, has_begun, has_heard, told: 0, most }
    }

    fn is_done(&self) -> bool {
        self.most.is_some_and(|most| self.told >= most)
    }

    async fn connected(&mut self, client: &Client, path: &str) -> Result<(), Failure> {
        let mut events = Events::of(client.events(path, self.last_id.as_deref()).await?);
        while let Some(event) = events.next().await? {
            self.has_heard = true;
            self.event(&event)?;
            if self.is_done() {
                return Ok(());
            }
        }
        Ok(())
    }

    fn event(&mut self, told: &Event) -> Result<(), Failure> {
        let unread = |error: serde_json::Error| Failure::local("unexpected_answer", error.to_string());
        let event: ConfigEvent = serde_json::from_str(&told.data).map_err(unread)?;
        if let Some(id) = &told.id {
            self.last_id = Some(id.clone());
        }
        for change in self.seen.take(&told.name, &event) {
            if !self.is_done() {
                self.tell(&Change { event: told.id.clone(), ..change })?;
                self.told += 1;
            }
        }
        if let (false, Some(count)) = (self.has_begun, self.seen.count()) {
            self.has_begun = true;
            output::note(&match (&self.after, &told.id) {
                (Some(after), _) => format!("going on behind the event {after}"),
                (None, Some(id)) => {
                    format!("watching {count} values from revision {} (event {id})", event.revision)
                }
                (None, None) => format!("watching {count} values from revision {}", event.revision),
            });
        }
        Ok(())
    }

    fn tell(&self, change: &Change) -> Result<(), Failure> {
        if self.format == Format::Json {
            let line = serde_json::to_string(change)
                .map_err(|error| Failure::local("unexpected_answer", error.to_string()))?;
            output::json_line(&line);
        } else if output::is_terminal() {
            output::drawn(&drawn(change));
        } else {
            output::line(&tabbed(change));
        }
        Ok(())
    }
}

/// With colours: red is gone, green is new. A long value has only its beginning.
fn drawn(change: &Change) -> String {
    let (red, green, bold, dim, plain) = ("\u{1b}[31m", "\u{1b}[32m", "\u{1b}[1m", "\u{1b}[2m", "\u{1b}[0m");
    let told = |text: &Option<String>| {
        let short = shortened(text.as_deref().unwrap_or("(nothing)"));
        visible(&short).into_owned()
    };
    let (old, new) = (told(&change.old), told(&change.new));
    let place = match (&change.scope, change.version) {
        (Some(scope), Some(version)) => format!("{} version {version}, ", visible(scope)),
        _ => String::new(),
    };
    format!(
        "{bold}{}{plain}  {red}{old}{plain} → {green}{new}{plain}  {dim}{place}revision {}{plain}",
        visible(&change.key),
        change.revision
    )
}

fn tabbed(change: &Change) -> String {
    output::tabbed(&[
        change.revision.to_string(),
        change.key.clone(),
        or_dash(change.old.as_ref()),
        or_dash(change.new.as_ref()),
        or_dash(change.scope.as_ref()),
        or_dash(change.version.as_ref()),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_a_line_without_what_steers_a_terminal() {
        let change = Change {
            revision: 7,
            key: "tenant_config_a".to_owned(),
            old: Some("\u{1b}[2J\u{9b}\u{202e}".to_owned()),
            new: Some(format!("{}1", "x".repeat(90))),
            scope: None,
            version: None,
            event: None,
        };
        assert_eq!(
            tabbed(&change),
            format!("7\ttenant_config_a\t\u{1b}[2J\u{9b}\u{202e}\t{}1\t-\t-", "x".repeat(90))
        );
        let drawn = drawn(&change);
        assert!(drawn.contains("\u{1b}[31m\\u{1b}[2J\\u{9b}\\u{202e}\u{1b}[0m"), "{drawn}");
        assert!(drawn.contains(&format!("\u{1b}[32m{}…\u{1b}[0m", "x".repeat(59))), "{drawn}");
        let nothing = super::drawn(&Change { new: None, ..change });
        assert!(nothing.contains("\u{1b}[32m(nothing)"), "{nothing}");
    }
}
