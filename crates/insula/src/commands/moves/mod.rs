//! `insula tenant move …` and `insula move …`

mod panel;
mod plan;
mod watch;

use insula_api::{Move, MovePlan, Operation, OperationStatus, StartMove};
use insula_domain::{Isolation, LongTransactions, MoveEnd, MovePace, MoveStatus, WayBack};
use reqwest::Method;

use crate::args::{Format, MoveCommand, MoveTenant, OpenTransactions};
use crate::client::{Client, Failure, segment};
use crate::output::{self, or_dash, time};

/// Runs `insula move …`.
pub async fn run(client: &Client, format: Format, command: MoveCommand) -> Result<(), Failure> {
    match command {
        MoveCommand::List { slug } => {
            let path =
                slug.map_or("/v1/moves".to_owned(), |slug| format!("/v1/tenants/{}/moves", segment(&slug)));
            let moves: Vec<Move> = client.list(&path).await?;
            output::list(format, &moves, &COLUMNS, row)
        }
        MoveCommand::Show { id, watch: false } => show(format, &find(client, &id).await?),
        MoveCommand::Show { id, watch: true } => watch::follow(client, format, &id).await,
        MoveCommand::Rollback { id, watch, wait } => {
            let operation = order(client, &id, "rollback").await?;
            ended(client, format, operation, &id, watch, wait.no_wait).await
        }
        MoveCommand::Complete { id, watch, wait } => {
            let operation = order(client, &id, "complete").await?;
            ended(client, format, operation, &id, watch, wait.no_wait).await
        }
        MoveCommand::Cancel { id, watch, wait } => cancel(client, format, &id, watch, wait.no_wait).await,
    }
}

/// Runs `insula tenant move …`.
pub async fn start(client: &Client, format: Format, arguments: MoveTenant) -> Result<(), Failure> {
    let (dry_run, watch, wait) = (arguments.dry_run, arguments.watch, arguments.wait);
    let path = format!("/v1/tenants/{}/moves", segment(&arguments.slug));
    let key = arguments.idempotency_key.clone();
    let request = request(arguments);
    if dry_run {
        let plan: MovePlan = client.send(Method::POST, &format!("{path}/plan"), &request).await?;
        return plan::show(format, &plan);
    }
    let headers: Vec<_> = key.as_deref().map(|key| ("idempotency-key", key)).into_iter().collect();
    let operation: Operation = client.call(Method::POST, &path, Some(&request), &headers).await?;
    let id = operation.id.to_string();
    ended(client, format, operation, &id, watch, wait.no_wait).await
}

fn request(arguments: MoveTenant) -> StartMove {
    StartMove {
        tier: arguments.tier,
        isolation: arguments.isolation,
        region: arguments.region,
        cluster: arguments.cluster,
        hold_ms: Some(arguments.hold),
        long_transactions: Some(match arguments.long_transactions {
            OpenTransactions::Wait => LongTransactions::Wait,
            OpenTransactions::End => LongTransactions::End,
        }),
        rollback_window_seconds: Some(arguments.rollback_window),
        copy_bytes_per_second: arguments.copy_rate,
    }
}

async fn find(client: &Client, id: &str) -> Result<Move, Failure> {
    client.get(&format!("/v1/moves/{}", segment(id))).await
}

async fn order(client: &Client, id: &str, verb: &str) -> Result<Operation, Failure> {
    client.order(Method::POST, &format!("/v1/moves/{}/{verb}", segment(id))).await
}

/// Shows the operation at once, or the move as it goes on, or at its end.
async fn ended(
    client: &Client,
    format: Format,
    operation: Operation,
    id: &str,
    watch: bool,
    no_wait: bool,
) -> Result<(), Failure> {
    if watch {
        return watch::follow(client, format, id).await;
    }
    if no_wait {
        return super::operations::show(format, &operation);
    }
    output::follow(client, operation, format).await?;
    show(format, &find(client, id).await?)
}

/// What is taken back ends undone, which is what was asked for; and it may have
/// come to its cutover before the word did.
async fn cancel(
    client: &Client,
    format: Format,
    id: &str,
    watch: bool,
    no_wait: bool,
) -> Result<(), Failure> {
    let operation = order(client, id, "cancel").await?;
    if no_wait {
        return super::operations::show(format, &operation);
    }
    let found = if watch {
        watch::follow_cancel(client, format, id).await?
    } else {
        let operation = output::follow_to_any_end(client, operation, format).await?;
        if operation.status == OperationStatus::Stuck {
            return Err(output::failed(&operation));
        }
        let found = find(client, id).await?;
        show(format, &found)?;
        found
    };
    if matches!(found.status, MoveStatus::Cancelled | MoveStatus::Failed) {
        return Ok(());
    }
    let detail = format!(
        "The move {id} came to its cutover before it could be cancelled. Take it back: insula move rollback {id}"
    );
    Err(Failure::local("move_status_conflict", detail))
}

const COLUMNS: [&str; 10] =
    ["id", "tenant", "from", "to", "status", "phase", "rows", "bytes", "pause ms", "begun"];

fn row(found: &Move) -> Vec<String> {
    vec![
        found.id.to_string(),
        who(found),
        place(&found.from),
        place(&found.to),
        found.status.to_string(),
        found.phase.as_str().to_owned(),
        found.rows.to_string(),
        found.bytes.to_string(),
        or_dash(found.pause_ms.as_ref()),
        time(found.created_at),
    ]
}

/// The tenant's slug; its id, when the tenant is no more.
fn who(found: &Move) -> String {
    found.tenant.as_ref().map_or_else(|| found.tenant_id.to_string(), ToString::to_string)
}

/// A place in a few words: the model and the cluster, or what it will be on.
fn place(end: &MoveEnd) -> String {
    let cluster = match (&end.cluster, end.isolation) {
        (Some(cluster), _) => cluster.to_string(),
        (None, Isolation::Cluster) => format!("new in {}", end.region),
        (None, _) => format!("none in {}", end.region),
    };
    format!("{} {cluster}", end.isolation)
}

fn show(format: Format, found: &Move) -> Result<(), Failure> {
    if format == Format::Json {
        return output::json(found);
    }
    let at = |time_of: Option<_>| time_of.map_or("-".to_owned(), time);
    let progress = &found.progress;
    let error = found.error.as_ref().map(|error| format!("{}: {}", error.code, error.detail));
    let mut fields = vec![
        ("id", found.id.to_string()),
        ("tenant", who(found)),
        ("status", found.status.to_string()),
        ("phase", found.phase.as_str().to_owned()),
        ("operation", found.operation.to_string()),
        ("from", end(&found.from)),
        ("to", end(&found.to)),
        ("tables", format!("{} of {}", progress.tables_done, progress.tables)),
        ("rows", found.rows.to_string()),
        ("bytes", found.bytes.to_string()),
        ("rows applied", progress.rows_applied.to_string()),
        ("lag bytes", progress.lag_bytes.to_string()),
        ("rows verified", progress.rows_verified.to_string()),
        ("pace", progress.pace.as_ref().map_or_else(|| "-".to_owned(), pace)),
        ("comparison", found.comparison.as_str().to_owned()),
        ("checksum", or_dash(found.checksum.as_ref())),
        ("cutovers", progress.cutovers.to_string()),
        ("held up by", or_dash(progress.held_up_by.as_ref())),
        ("pause ms", or_dash(found.pause_ms.as_ref())),
        ("clients waited", or_dash(progress.clients_waited.as_ref())),
        ("narrowed ms", or_dash(found.narrowed_ms.as_ref())),
        ("begun", time(found.created_at)),
        ("switched over", at(found.committed_at)),
        ("rollback until", at(found.window_ends_at)),
        ("way back", found.way_back.map_or("-", WayBack::as_str).to_owned()),
        ("ended", at(found.ended_at)),
        ("error", or_dash(error.as_ref())),
    ];
    if let Some(mut manifest) = found.manifest.clone() {
        // What was left is nothing that was removed.
        if let Some(left) = manifest.as_object_mut().and_then(|manifest| manifest.remove("left")) {
            fields.push(("left", left.to_string()));
        }
        if let Some(found) = manifest.as_object_mut().and_then(|manifest| manifest.remove("differences")) {
            fields.push(("differences", found.to_string()));
        }
        fields.push(("removed", manifest.to_string()));
    }
    output::one(format, found, &fields)?;
    super::operations::show_steps(format, &found.steps)
}

/// A pace, and by what it is told how long it still takes.
fn pace(of: &MovePace) -> String {
    let reckoned = of.seconds_left.map_or_else(String::new, |_| format!(" {}", panel::reckoned(of)));
    format!("{}{reckoned}", panel::pace(of))
}

/// One end with all that comes with it.
fn end(end: &MoveEnd) -> String {
    // Without a cluster, its place says the region.
    let region = end.cluster.as_ref().map_or_else(String::new, |_| format!(" in {}", end.region));
    format!(
        "{}{region} (tier {}, database {}, schema {}, epoch {})",
        place(end),
        end.tier,
        end.database,
        end.schema,
        end.epoch
    )
}
