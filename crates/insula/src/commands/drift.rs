//! `insula schema status --drift`

use insula_api::{Page, TenantDrift};

use crate::args::Format;
use crate::client::{Client, Failure, segment};
use crate::output;

/// Reads page by page and tells how far it is; exit 1 where there is drift, or
/// a tenant could not be read. What tenants made themselves is no drift.
pub async fn show(client: &Client, format: Format, tenant: Option<String>) -> Result<(), Failure> {
    let mut read: Vec<TenantDrift> = Vec::new();
    let only = tenant.map_or_else(String::new, |tenant| format!("&tenant={}", segment(&tenant)));
    let mut cursor = String::new();
    loop {
        let page: Page<TenantDrift> = client.get(&format!("/v1/schema/drift?limit=20{only}{cursor}")).await?;
        read.extend(page.items);
        let Some(next) = page.next_cursor else { break };
        output::note(&format!("{} tenants read", read.len()));
        cursor = format!("&cursor={next}");
    }
    print(format, &read)?;
    let is_well = |drift: &TenantDrift| drift.differences.is_empty() && drift.unread.is_none();
    if read.iter().all(is_well) { Ok(()) } else { Err(Failure::Told) }
}

fn print(format: Format, read: &[TenantDrift]) -> Result<(), Failure> {
    if format == Format::Json {
        return output::json(&serde_json::json!({"items": read}));
    }
    let unread = read.iter().filter_map(|drift| Some((drift, drift.unread.as_ref()?)));
    let unread = unread.map(|(drift, why)| vec![drift.tenant.to_string(), "unread".to_owned(), why.clone()]);
    let differences = read.iter().flat_map(|drift| {
        drift
            .differences
            .iter()
            .map(|found| vec![drift.tenant.to_string(), found.object.clone(), found.detail.clone()])
    });
    let rows: Vec<_> = unread.chain(differences).collect();
    let well = read.iter().filter(|drift| drift.differences.is_empty() && drift.unread.is_none()).count();
    output::note(&format!("{} tenants read, {well} are as their version makes them", read.len()));
    if !rows.is_empty() {
        output::list(format, &rows, &["tenant", "object", "differs"], Clone::clone)?;
    }
    let own: Vec<_> =
        read.iter().flat_map(|drift| drift.own.iter().map(move |object| (drift, object))).collect();
    if own.is_empty() {
        return Ok(());
    }
    output::note("Made by tenants themselves; all of it would be in the way of a move to a pool:");
    output::list(format, &own, &["tenant", "kind", "name", "rows, about", "bytes"], |(drift, object)| {
        vec![
            drift.tenant.to_string(),
            object.kind.clone(),
            object.name.clone(),
            output::or_dash(object.rows.as_ref()),
            output::or_dash(object.bytes.as_ref()),
        ]
    })?;
    for drift in read.iter().filter(|drift| drift.own_more > 0) {
        output::note(&format!("{} has {} more", drift.tenant, drift.own_more));
    }
    Ok(())
}
