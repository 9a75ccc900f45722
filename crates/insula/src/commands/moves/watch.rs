//! Following a move by its events to the end of its operation, drawn on a
//! terminal or told line by line. Who interrupts it is told that the move goes on.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use insula_api::{Move, Operation, OperationStatus};
use insula_domain::MoveStatus;
use tokio::time::Instant;

use super::panel::{COLUMNS, Mark, Part, line, outcome, picture};
use crate::args::Format;
use crate::client::{Client, Failure, segment};
use crate::events::{Events, is_final};
use crate::output;
use crate::visible::visible;

/// The pause before a stream that has ended is begun again.
const PAUSE: Duration = Duration::from_millis(500);

/// How long the server may be away until the watch is given up.
const AWAY_MAX: Duration = Duration::from_secs(60);

/// Follows the operation, shows the move as it goes, and what came of it.
pub async fn follow(client: &Client, format: Format, id: &str) -> Result<(), Failure> {
    let found = watched(client, id, goes_on).await?;
    if found.operation_status.is_some_and(|status| status != OperationStatus::Succeeded) {
        return Err(failed(client, &found).await?);
    }
    tell(format, &found)
}

/// The same for a move that is cancelled, whose operation is not to succeed; what
/// has become of the move.
pub async fn follow_cancel(client: &Client, format: Format, id: &str) -> Result<Move, Failure> {
    let found = watched(client, id, is_taken_back).await?;
    if found.operation_status == Some(OperationStatus::Stuck) {
        return Err(failed(client, &found).await?);
    }
    tell(format, &found)?;
    Ok(found)
}

/// Shows the move as it goes, to the end of its operation.
async fn watched(
    client: &Client,
    id: &str,
    on_leaving: fn(&str, Option<MoveStatus>) -> String,
) -> Result<Move, Failure> {
    let mut screen = Screen::new();
    let watched = tokio::select! {
        ended = until_ended(client, id, &mut screen) => Some(ended),
        Ok(()) = tokio::signal::ctrl_c() => None,
    };
    screen.clear();
    let Some(ended) = watched else {
        output::note(&on_leaving(id, screen.last));
        return Err(Failure::Interrupted);
    };
    if let Err(failure) = &ended
        && screen.last.is_some()
        && !is_final(failure)
    {
        output::note(&on_leaving(id, screen.last));
    }
    ended
}

/// The failure of the move's operation.
async fn failed(client: &Client, found: &Move) -> Result<Failure, Failure> {
    let operation: Operation = client.get(&format!("/v1/operations/{}", found.operation)).await?;
    Ok(output::failed(&operation))
}

fn tell(format: Format, found: &Move) -> Result<(), Failure> {
    match format {
        Format::Json => output::json(found),
        Format::Table => {
            output::line(&outcome(found));
            Ok(())
        }
    }
}

/// How to look again.
fn again(id: &str) -> String {
    format!("to look again: insula move show {id} --watch")
}

/// What is said to somebody who looks away from a move that is cancelled.
fn is_taken_back(id: &str, _: Option<MoveStatus>) -> String {
    format!("The move is still being taken back; only the watch has ended.\n{}", again(id))
}

/// What is said to somebody who looks away.
fn goes_on(id: &str, status: Option<MoveStatus>) -> String {
    let again = again(id);
    let steer = match status {
        None | Some(MoveStatus::Running) => format!("\nto cancel it:  insula move cancel {id}"),
        Some(MoveStatus::Moved) => format!("\nto take it back: insula move rollback {id}"),
        Some(_) => String::new(),
    };
    format!("The move goes on; only the watch has ended.\n{again}{steer}")
}

/// The move when its operation has ended, or is stuck.
async fn until_ended(client: &Client, id: &str, screen: &mut Screen) -> Result<Move, Failure> {
    let path = format!("/v1/moves/{}/events", segment(id));
    let (mut last_id, mut heard) = (None, None);
    loop {
        match told(client, &path, screen, &mut last_id, &mut heard).await {
            // What it says of the move may be older than what it says of the operation.
            Ok(Some(_)) => return super::find(client, id).await,
            Ok(None) => {}
            Err(failure) => {
                let is_given_up = heard.is_none_or(|at: Instant| at.elapsed() > AWAY_MAX);
                if is_given_up || is_final(&failure) {
                    return Err(failure);
                }
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// One stream of its events, from where the last one has ended.
async fn told(
    client: &Client,
    path: &str,
    screen: &mut Screen,
    last_id: &mut Option<String>,
    heard: &mut Option<Instant>,
) -> Result<Option<Move>, Failure> {
    let mut events = Events::of(client.events(path, last_id.as_deref()).await?);
    while let Some(event) = events.next().await? {
        *heard = Some(Instant::now());
        if event.name != "move" {
            continue;
        }
        let unread = |error: serde_json::Error| Failure::local("unexpected_answer", error.to_string());
        let found: Move = serde_json::from_str(&event.data).map_err(unread)?;
        *last_id = event.id;
        screen.show(&found);
        if found.operation_status.is_none_or(OperationStatus::is_final) {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// Where the move is shown: on standard error, where it does not mix with
/// results.
struct Screen {
    terminal: Option<Terminal>,
    told: Option<Mark>,
    last: Option<MoveStatus>,
}

impl Screen {
    fn new() -> Self {
        let terminal = std::io::stderr().is_terminal().then(Terminal::default);
        Self { terminal, told: None, last: None }
    }

    fn show(&mut self, found: &Move) {
        self.last = Some(found.status);
        if let Some(terminal) = &mut self.terminal {
            terminal.draw(&picture(found));
            return;
        }
        if self.told.is_none() {
            output::note(&COLUMNS.join("\t"));
        }
        let mark = Mark::of(found);
        if self.told.as_ref() != Some(&mark) {
            output::note(&line(found));
            self.told = Some(mark);
        }
    }

    fn clear(&mut self) {
        if let Some(terminal) = &mut self.terminal {
            terminal.draw(&[]);
        }
    }
}

/// The picture on a terminal: a bar for each of its parts.
#[derive(Default)]
struct Terminal {
    all: MultiProgress,
    bars: Vec<(&'static str, ProgressBar)>,
}

impl Terminal {
    fn draw(&mut self, parts: &[Part]) {
        let same = self.bars.iter().zip(parts).take_while(|((label, _), part)| *label == part.label).count();
        for (_, bar) in self.bars.drain(same..) {
            bar.finish_and_clear();
            self.all.remove(&bar);
        }
        for part in &parts[same..] {
            self.bars.push((part.label, self.all.add(bar(part))));
        }
        for ((_, bar), part) in self.bars.iter().zip(parts) {
            if let Some((done, of)) = part.gauge {
                bar.set_length(of);
                bar.set_position(done);
            }
            bar.set_message(visible(&part.text).into_owned());
        }
    }
}

fn bar(part: &Part) -> ProgressBar {
    let template = match part.gauge {
        Some(_) => "{prefix:>8} {bar:24.green} {msg}",
        None => "{prefix:>8} {msg}",
    };
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::no_length().with_style(style).with_prefix(part.label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_looks_away_is_told_how_to_look_again_and_what_can_still_be_done() {
        for (status, expected) in [
            (None, "insula move cancel 7"),
            (Some(MoveStatus::Running), "insula move cancel 7"),
            (Some(MoveStatus::Moved), "insula move rollback 7"),
        ] {
            let said = goes_on("7", status);
            assert!(said.contains("goes on") && said.contains("insula move show 7 --watch"), "{said}");
            assert!(said.contains(expected), "{said}");
        }
        let said = is_taken_back("7", Some(MoveStatus::Running));
        assert!(said.contains("insula move show 7 --watch") && !said.contains("cancel"), "{said}");
        let said = goes_on("7", Some(MoveStatus::RollingBack));
        assert!(!said.contains("cancel") && !said.contains("insula move rollback"), "{said}");
    }
}
