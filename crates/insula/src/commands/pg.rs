//! `insula pg show …`

use insula_api::{PgBackend, PgClient, PgList, PgTenant};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::args::{Format, PgCommand, PgFilter, PgShow};
use crate::client::{Client, Failure, query};
use crate::output::{self, or_dash, time};

/// Runs the command.
pub async fn run(client: &Client, format: Format, command: PgCommand) -> Result<(), Failure> {
    let PgCommand::Show(what) = command;
    match what {
        PgShow::Clients(filter) => {
            let columns = [
                "tenant",
                "login",
                "application",
                "address",
                "tls",
                "state",
                "since",
                "mode",
                "pinned",
                "transactions",
            ];
            show(client, format, "clients", filter, &columns, client_row).await
        }
        PgShow::Backends(filter) => {
            let columns = ["cluster", "tenant", "role", "pid", "state", "opened", "used", "transactions"];
            show(client, format, "backends", filter, &columns, backend_row).await
        }
        PgShow::Tenants(filter) => {
            let columns = [
                "tenant",
                "clients",
                "waiting",
                "held",
                "backends",
                "idle",
                "weight",
                "most",
                "transactions",
                "waits",
                "waited ms",
                "longest ms",
                "pins",
                "bytes in",
                "bytes out",
                "errors",
            ];
            show(client, format, "tenants", filter, &columns, tenant_row).await
        }
    }
}

async fn show<T: Serialize + DeserializeOwned>(
    client: &Client,
    format: Format,
    what: &str,
    filter: PgFilter,
    columns: &[&str],
    row: impl Fn(&T) -> Vec<String>,
) -> Result<(), Failure> {
    let query = query(&[("tenant", &filter.tenant), ("limit", &Some(filter.limit.to_string()))]);
    let list: PgList<T> = client.get(&format!("/v1/pg/{what}{query}")).await?;
    if format == Format::Json {
        return output::json(&list);
    }
    output::list(format, &list.items, columns, row)?;
    output::note(&told_of(list.process_id, list.draining_clients));
    let shown = list.items.len() as u64;
    if shown < list.total {
        output::note(&format!("{shown} of {} {what}; --limit and --tenant show others", list.total));
    }
    Ok(())
}

/// Of which process it is told, and of whom it is not.
fn told_of(process: u32, draining_clients: u64) -> String {
    match draining_clients {
        0 => format!("process {process}"),
        1 => format!("process {process}; 1 client of a process before it is not shown, which drains"),
        more => {
            format!("process {process}; {more} clients of processes before it are not shown, which drain")
        }
    }
}

fn client_row(client: &PgClient) -> Vec<String> {
    vec![
        or_dash(client.tenant.as_ref()),
        client.login.clone(),
        client.application_name.clone(),
        client.address.clone(),
        client.tls.to_string(),
        client.state.as_str().to_owned(),
        time(client.since),
        client.pool_mode.to_string(),
        or_dash(client.pinned.as_ref()),
        client.transactions.to_string(),
    ]
}

fn backend_row(backend: &PgBackend) -> Vec<String> {
    vec![
        backend.cluster.to_string(),
        or_dash(backend.tenant.as_ref()),
        backend.role.to_string(),
        backend.process_id.to_string(),
        backend.state.as_str().to_owned(),
        time(backend.opened_at),
        time(backend.used_at),
        backend.transactions.to_string(),
    ]
}

fn tenant_row(tenant: &PgTenant) -> Vec<String> {
    let pins: Vec<_> = tenant.pins.iter().map(|(reason, count)| format!("{reason}={count}")).collect();
    vec![
        or_dash(tenant.tenant.as_ref()),
        tenant.clients.to_string(),
        tenant.waiting.to_string(),
        if tenant.held { "yes" } else { "-" }.to_owned(),
        tenant.backends.to_string(),
        tenant.backends_idle.to_string(),
        tenant.weight.to_string(),
        or_dash(tenant.backends_max.as_ref()),
        tenant.transactions.to_string(),
        tenant.waits.count.to_string(),
        tenant.waits.total_ms.to_string(),
        tenant.waits.longest_ms.to_string(),
        if pins.is_empty() { "-".to_owned() } else { pins.join(",") },
        tenant.bytes_from_clients.to_string(),
        tenant.bytes_to_clients.to_string(),
        tenant.errors.to_string(),
    ]
}
