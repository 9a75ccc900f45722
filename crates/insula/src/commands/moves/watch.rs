//! Following a move to the end of its operation, drawn on a terminal or told
//! line by line.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use insula_api::{Move, Operation, OperationStatus};
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::panel::{COLUMNS, Mark, Pace, Part, line, outcome, picture};
use crate::args::Format;
use crate::client::{Client, Failure};
use crate::output;

/// Between two looks at the move.
const LOOK: Duration = Duration::from_millis(250);

/// Follows the operation, shows the move as it goes, and what came of it.
pub async fn follow(client: &Client, format: Format, operation: Operation, id: &str) -> Result<(), Failure> {
    let mut screen = Screen::new();
    let ended = until_ended(client, operation, id, &mut screen).await;
    screen.clear();
    let operation = ended?;
    let found = super::find(client, id).await?;
    if operation.status != OperationStatus::Succeeded {
        return Err(output::failed(&operation));
    }
    match format {
        Format::Json => output::json(&found),
        Format::Table => {
            output::line(&outcome(&found));
            Ok(())
        }
    }
}

async fn until_ended(
    client: &Client,
    mut operation: Operation,
    id: &str,
    screen: &mut Screen,
) -> Result<Operation, Failure> {
    let operation_id = operation.id.to_string();
    let mut progress = None;
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !operation.status.is_final() {
        let mut goes_on = std::pin::pin!(client.operation(&operation_id, progress));
        (operation, progress) = loop {
            tokio::select! {
                answer = &mut goes_on => break answer?,
                _ = looks.tick() => screen.show(&super::find(client, id).await?),
            }
        };
    }
    screen.show(&super::find(client, id).await?);
    Ok(operation)
}

/// Where the move is shown: on standard error, where it does not mix with
/// results.
struct Screen {
    begun: Instant,
    pace: Pace,
    terminal: Option<Terminal>,
    told: Option<Mark>,
}

impl Screen {
    fn new() -> Self {
        let terminal = std::io::stderr().is_terminal().then(Terminal::default);
        Self { begun: Instant::now(), pace: Pace::default(), terminal, told: None }
    }

    fn show(&mut self, found: &Move) {
        if let Some(terminal) = &mut self.terminal {
            self.pace.look(self.begun.elapsed(), found.progress.rows);
            terminal.draw(&picture(found, &self.pace));
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
            bar.set_message(part.text.clone());
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
