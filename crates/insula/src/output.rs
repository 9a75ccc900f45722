//! What commands print: tables for people, tab-separated lines for pipes, JSON
//! for programs; and the steps of an operation while it runs. What others have
//! written steers no terminal: it goes through here, and is made visible.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use comfy_table::presets::NOTHING;
use comfy_table::{Attribute, Cell, ContentArrangement, Table};
use indicatif::{ProgressBar, ProgressStyle};
use insula_api::{Operation, OperationStatus, Step, StepStatus};
use serde::Serialize;

use crate::args::Format;
use crate::client::{Client, Failure};
use crate::visible::{visible, visible_json, visible_lines};

/// Prints a line. On a terminal, what would steer it is written out.
pub fn line(text: &str) {
    drawn(&if is_terminal() { visible_lines(text) } else { text.into() });
}

/// Prints a line of JSON, or several. On a terminal, what would steer it is
/// escaped: it is the same JSON.
pub fn json_line(text: &str) {
    drawn(&if is_terminal() { visible_json(text) } else { text.into() });
}

/// Whether results are read on a terminal.
pub fn is_terminal() -> bool {
    std::io::stdout().is_terminal()
}

/// Prints a line as it is: its own colours are in it, and what others have written
/// was made visible. A closed pipe ends the program quietly, as other tools do.
pub fn drawn(text: &str) {
    let mut out = std::io::stdout().lock();
    if writeln!(out, "{text}").and_then(|()| out.flush()).is_err() {
        std::process::exit(0);
    }
}

/// Prints bytes as they are; on a terminal as text that does not steer it.
pub fn bytes(bytes: &[u8]) {
    let mut out = std::io::stdout().lock();
    let text = out.is_terminal().then(|| String::from_utf8_lossy(bytes));
    let text = text.as_deref().map(visible_lines);
    let bytes = text.as_deref().map_or(bytes, str::as_bytes);
    if out.write_all(bytes).and_then(|()| out.flush()).is_err() {
        std::process::exit(0);
    }
}

/// Prints a line on standard error, where it does not mix with results.
pub fn note(text: &str) {
    let mut err = std::io::stderr().lock();
    let text = if err.is_terminal() { visible_lines(text) } else { text.into() };
    let _ = writeln!(err, "{text}");
}

/// Prints a list: a row an item, or the items as JSON.
pub fn list<T: Serialize>(
    format: Format,
    items: &[T],
    columns: &[&str],
    row: impl Fn(&T) -> Vec<String>,
) -> Result<(), Failure> {
    match format {
        Format::Json => json(&serde_json::json!({ "items": items })),
        Format::Table => {
            table(columns, items.iter().map(row).collect());
            Ok(())
        }
    }
}

/// Prints one thing: a line a field, or the thing as JSON.
pub fn one<T: Serialize>(format: Format, item: &T, fields: &[(&str, String)]) -> Result<(), Failure> {
    match format {
        Format::Json => json(item),
        Format::Table => {
            let rows = fields.iter().map(|(name, value)| vec![(*name).to_owned(), value.clone()]).collect();
            table(&[], rows);
            Ok(())
        }
    }
}

/// Columns of a terminal from which on cells are folded to fit it.
const FOLDING_WIDTH_MIN: u16 = 60;

/// Prints JSON.
pub fn json<T: Serialize>(item: &T) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(item)
        .map_err(|error| Failure::local("unexpected_answer", error.to_string()))?;
    json_line(&text);
    Ok(())
}

/// A row of a table for a pipe.
pub fn tabbed(cells: &[String]) -> String {
    cells.iter().map(|cell| cell.replace(['\t', '\n'], " ")).collect::<Vec<_>>().join("\t")
}

fn table(columns: &[&str], rows: Vec<Vec<String>>) {
    if !is_terminal() {
        if !columns.is_empty() {
            line(&columns.join("\t"));
        }
        for row in rows {
            line(&tabbed(&row));
        }
        return;
    }
    for text in laid_out(columns, &rows).lines() {
        drawn(text.trim_end());
    }
}

/// A table for a terminal.
fn laid_out(columns: &[&str], rows: &[Vec<String>]) -> Table {
    let mut table = Table::new();
    // A terminal that does not say how wide it is, or is too narrow for any
    // table, gets lines as long as they are.
    let folds = table.width().is_some_and(|width| width >= FOLDING_WIDTH_MIN);
    let arrangement = if folds { ContentArrangement::Dynamic } else { ContentArrangement::Disabled };
    table.load_style(NOTHING).set_content_arrangement(arrangement);
    if !columns.is_empty() {
        table.set_header(
            columns.iter().map(|name| Cell::new(name.to_uppercase()).add_attribute(Attribute::Bold)),
        );
    }
    for row in rows {
        table.add_row(row.iter().map(|cell| visible(cell)));
    }
    table
}

/// `-` for what is not there.
pub fn or_dash<T: ToString>(value: Option<&T>) -> String {
    value.map_or_else(|| "-".to_owned(), T::to_string)
}

/// A time as people read it.
pub fn time(at: time::OffsetDateTime) -> String {
    at.format(&time::format_description::well_known::Rfc3339).unwrap_or_default()
}

/// Follows an operation to its end and shows its steps as they go; a failure
/// where it does not succeed.
pub async fn follow(client: &Client, operation: Operation, format: Format) -> Result<Operation, Failure> {
    let operation = follow_to_any_end(client, operation, format).await?;
    match operation.status {
        OperationStatus::Succeeded => Ok(operation),
        _ => Err(failed(&operation)),
    }
}

/// The same, whichever its end is.
pub async fn follow_to_any_end(
    client: &Client,
    operation: Operation,
    format: Format,
) -> Result<Operation, Failure> {
    let mut shown = Shown::new(format);
    let id = operation.id.to_string();
    let mut operation = operation;
    let mut progress = None;
    loop {
        shown.update(&operation);
        if operation.status.is_final() {
            break;
        }
        (operation, progress) = client.operation(&id, progress).await?;
    }
    shown.finish(&operation);
    Ok(operation)
}

/// The failure of an operation that did not succeed.
pub fn failed(operation: &Operation) -> Failure {
    let (code, detail) = operation
        .error
        .as_ref()
        .map_or(("internal", "It says no reason."), |error| (error.code.as_str(), error.detail.as_str()));
    let end = match operation.status {
        OperationStatus::Undone => "Everything is as it was before.".to_owned(),
        _ => format!("It is stuck: when the cause is mended, insula operation resume {}.", operation.id),
    };
    Failure::Problem(Box::new(insula_api::ProblemBody {
        r#type: format!("/docs/problems/{code}"),
        title: String::new(),
        status: 0,
        detail: format!("{detail} {end}"),
        code: code.to_owned(),
        request_id: None,
        errors: Vec::new(),
    }))
}

/// The steps as they are shown: a bar on a terminal, else a line a step.
struct Shown {
    bar: Option<ProgressBar>,
    told: usize,
    quiet: bool,
}

impl Shown {
    fn new(format: Format) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(1);
            let style = ProgressStyle::with_template("{spinner:.green} {bar:24.green} {pos}/{len} {msg}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        });
        Self { bar, told: 0, quiet: format == Format::Json }
    }

    fn update(&mut self, operation: &Operation) {
        let ended = |step: &&Step| matches!(step.status, StepStatus::Done | StepStatus::Undone);
        let done: Vec<&Step> = operation.steps.iter().filter(ended).collect();
        if let Some(bar) = &self.bar {
            bar.set_length(operation.steps.len() as u64);
            bar.set_position(done.len() as u64);
            let now = operation
                .steps
                .iter()
                .find(|step| matches!(step.status, StepStatus::Running | StepStatus::Undoing));
            bar.set_message(now.map_or_else(|| operation.kind.clone(), step_text));
        } else if !self.quiet {
            for step in done.iter().skip(self.told) {
                note(&format!("{}\t{}\t{}", operation.kind, step_text(step), took(step)));
            }
            self.told = self.told.max(done.len());
        }
    }

    fn finish(&mut self, operation: &Operation) {
        let Some(bar) = self.bar.take() else { return };
        bar.finish_and_clear();
        let steps: Vec<_> = operation
            .steps
            .iter()
            .filter(|step| step.started_at.is_some())
            .map(|step| format!("{} {}", step_text(step), took(step)))
            .collect();
        note(&format!("{} {}: {}", operation.kind, operation.status.as_str(), steps.join(", ")));
    }
}

fn step_text(step: &Step) -> String {
    match step.status {
        StepStatus::Undoing => format!("undoing {}", step.name),
        StepStatus::Undone => format!("undone {}", step.name),
        _ if step.attempts > 1 => format!("{} (attempt {})", step.name, step.attempts),
        _ => step.name.clone(),
    }
}

fn took(step: &Step) -> String {
    match (step.started_at, step.ended_at) {
        (Some(start), Some(end)) => format!("{} ms", (end - start).whole_milliseconds()),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_on_a_terminal_shows_what_would_steer_it() {
        let rows = [vec!["a\u{202e}".to_owned(), "\u{1b}[2J\u{7}\n\u{9b}1A".to_owned()]];
        let table = laid_out(&[], &rows);
        assert_eq!(table.lines().count(), 1, "nobody makes up a row");
        let text = table.to_string();
        assert!(text.contains("a\\u{202e}") && text.contains("\\u{1b}[2J\\u{7}\\u{a}\\u{9b}1A"), "{text}");
        assert!(!text.contains(['\u{1b}', '\u{7}', '\u{9b}', '\u{202e}']), "{text}");
    }
}
