//! What `insula tenant move … --dry-run` prints: where the tenant would go, what
//! there is to move, and all that is in the way.

use indicatif::{DecimalBytes, HumanCount};
use insula_api::{MoveDisk, MovePlan};

use super::end;
use crate::args::Format;
use crate::client::Failure;
use crate::output;

/// Prints what a move would be; a failure where something stops it.
pub fn show(format: Format, plan: &MovePlan) -> Result<(), Failure> {
    if format == Format::Json {
        output::json(plan)?;
    } else {
        print(format, plan)?;
    }
    if plan.possible {
        return Ok(());
    }
    let stopping = plan.obstacles.iter().filter(|obstacle| obstacle.stops).count();
    let detail = format!(
        "{stopping} of {} obstacles would stop this move. Nothing was changed.",
        plan.obstacles.len()
    );
    Err(Failure::local("move_blocked", detail))
}

fn print(format: Format, plan: &MovePlan) -> Result<(), Failure> {
    let pace = DecimalBytes(plan.bytes_per_second);
    let fields = [
        ("from", end(&plan.from)),
        ("to", end(&plan.to)),
        ("tables", plan.tables.to_string()),
        ("rows, about", HumanCount(plan.rows).to_string()),
        ("bytes, about", DecimalBytes(plan.bytes).to_string()),
        (
            "seconds, about",
            format!("{} to the cutover, copied and compared at {pace}/s", plan.estimate_seconds),
        ),
        ("disk", disk(plan.disk.as_ref())),
        ("possible", if plan.possible { "yes" } else { "no" }.to_owned()),
    ];
    output::one(format, plan, &fields)?;
    output::line("");
    output::list(format, &plan.steps, &["step", "can be taken back", "why"], |step| {
        let reversible = if step.reversible { "yes" } else { "no" };
        vec![step.name.clone(), reversible.to_owned(), step.why.clone()]
    })?;
    if plan.obstacles.is_empty() {
        return Ok(());
    }
    output::line("");
    output::list(format, &plan.obstacles, &["obstacle", "object", "stops", "detail"], |obstacle| {
        let stops = if obstacle.stops { "yes" } else { "no" };
        vec![obstacle.kind.clone(), obstacle.object.clone(), stops.to_owned(), obstacle.detail.clone()]
    })
}

fn disk(disk: Option<&MoveDisk>) -> String {
    match disk {
        None => "not known before there is a server".to_owned(),
        Some(disk) => match disk.free_bytes {
            Some(free) => format!(
                "{} free on that of {}, about {} needed",
                DecimalBytes(free),
                disk.cluster,
                DecimalBytes(disk.needed_bytes)
            ),
            None => disk.detail.clone(),
        },
    }
}
