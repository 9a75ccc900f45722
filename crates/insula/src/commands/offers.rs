//! `insula plan …` and `insula tier …`

use insula_api::{Operation, PutPlan, PutTier, TierAfterPut};
use insula_domain::{Plan, Tier, UserPoolKind};
use reqwest::Method;

use crate::args::{Format, Limit, PlanCommand, SetPlan, TierCommand};
use crate::client::{Client, Failure, segment};
use crate::output;

const COLUMNS: [&str; 12] = [
    "plan",
    "requests/s",
    "burst",
    "a day",
    "in flight",
    "connections",
    "weight",
    "backends",
    "warm",
    "statement ms",
    "idle in transaction ms",
    "storage bytes",
];

fn limit<T: ToString>(value: Option<&T>) -> String {
    value.map_or_else(|| "none".to_owned(), T::to_string)
}

fn row(plan: &Plan) -> Vec<String> {
    vec![
        plan.name.to_string(),
        limit(plan.requests_per_second.as_ref()),
        limit(plan.burst.as_ref()),
        limit(plan.daily_quota.as_ref()),
        limit(plan.requests_in_flight.as_ref()),
        limit(plan.database_connections.as_ref()),
        plan.database_weight.to_string(),
        limit(plan.database_backends.as_ref()),
        limit(plan.database_backends_warm.as_ref()),
        limit(plan.statement_timeout_ms.as_ref()),
        limit(plan.idle_in_transaction_timeout_ms.as_ref()),
        limit(plan.storage_bytes.as_ref()),
    ]
}

/// The plan as it shall be: what is not given stays as it is.
fn wanted(set: &SetPlan, known: Option<&Plan>) -> PutPlan {
    fn limit<T: Copy>(
        given: Option<Limit<T>>,
        known: Option<&Plan>,
        of: impl FnOnce(&Plan) -> Option<T>,
    ) -> Option<T> {
        given.map_or_else(|| known.and_then(of), |limit| limit.0)
    }
    PutPlan {
        requests_per_second: limit(set.requests_per_second, known, |plan| plan.requests_per_second),
        burst: limit(set.burst, known, |plan| plan.burst),
        daily_quota: limit(set.daily_quota, known, |plan| plan.daily_quota),
        requests_in_flight: limit(set.requests_in_flight, known, |plan| plan.requests_in_flight),
        database_connections: limit(set.database_connections, known, |plan| plan.database_connections),
        database_weight: set.database_weight.or(known.map(|plan| plan.database_weight)),
        database_backends: limit(set.database_backends, known, |plan| plan.database_backends),
        database_backends_warm: limit(set.database_backends_warm, known, |plan| plan.database_backends_warm),
        statement_timeout_ms: limit(set.statement_timeout_ms, known, |plan| plan.statement_timeout_ms),
        idle_in_transaction_timeout_ms: limit(set.idle_in_transaction_timeout_ms, known, |plan| {
            plan.idle_in_transaction_timeout_ms
        }),
        storage_bytes: limit(set.storage_bytes, known, |plan| plan.storage_bytes),
    }
}

/// `insula plan …`
pub async fn plans(client: &Client, format: Format, command: PlanCommand) -> Result<(), Failure> {
    let plans: Vec<Plan> = client.list("/v1/plans").await?;
    let PlanCommand::Set(set) = command else {
        return output::list(format, &plans, &COLUMNS, row);
    };
    let known = plans.into_iter().find(|plan| plan.name.as_str() == set.name);
    let request = wanted(&set, known.as_ref());
    let name = set.name;
    let plan: Plan = client.send(Method::PUT, &format!("/v1/plans/{}", segment(&name)), &request).await?;
    match format {
        Format::Json => output::json(&plan),
        Format::Table => output::list(format, &[plan], &COLUMNS, row),
    }
}

/// `insula tier …`
pub async fn tiers(client: &Client, format: Format, command: TierCommand) -> Result<(), Failure> {
    let columns = ["tier", "isolation", "user pool", "plan", "own objects"];
    let row = |tier: &Tier| {
        vec![
            tier.name.to_string(),
            tier.isolation.to_string(),
            tier.user_pool.as_str().to_owned(),
            tier.plan.to_string(),
            if tier.own_objects { "yes" } else { "no" }.to_owned(),
        ]
    };
    let TierCommand::Set { name, isolation, user_pool, plan, own_objects, wait } = command else {
        let tiers: Vec<Tier> = client.list("/v1/tiers").await?;
        return output::list(format, &tiers, &columns, row);
    };
    let isolation = isolation.parse().map_err(|error: insula_domain::UnknownIsolation| {
        Failure::local("invalid_request", error.to_string())
    })?;
    let user_pool = match user_pool.as_str() {
        "shared" => UserPoolKind::Shared,
        "dedicated" => UserPoolKind::Dedicated,
        other => {
            let detail = format!("Unknown kind of user pool {other:?}: it is shared or dedicated.");
            return Err(Failure::local("invalid_request", detail));
        }
    };
    let path = format!("/v1/tiers/{}", segment(&name));
    let request = PutTier { isolation, user_pool, plan, own_objects };
    let put: TierAfterPut = client.send(Method::PUT, &path, &request).await?;
    match format {
        Format::Json => output::json(&put)?,
        Format::Table => output::list(format, &[put.tier], &columns, row)?,
    }
    match put.operation {
        Some(operation) if !wait.no_wait => tell_tenants(client, format, &operation.to_string()).await,
        _ => Ok(()),
    }
}

/// Follows the right to objects of one's own to the tier's tenants, and tells
/// whom it could not be brought to.
async fn tell_tenants(client: &Client, format: Format, operation: &str) -> Result<(), Failure> {
    let operation: Operation = client.get(&format!("/v1/operations/{operation}")).await?;
    let operation = output::follow(client, operation, format).await?;
    let unsettled =
        operation.output.as_ref().and_then(|output| output.as_array()).cloned().unwrap_or_default();
    if unsettled.is_empty() {
        return Ok(());
    }
    for tenant in &unsettled {
        let [slug, code, detail] =
            ["tenant", "code", "detail"].map(|field| tenant[field].as_str().unwrap_or(""));
        output::note(&format!("insula: {code}: {slug}: {detail}"));
    }
    output::note("When the cause is mended: insula tenant suspend and resume, for each of them.");
    Err(Failure::Told)
}
