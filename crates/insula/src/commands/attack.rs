//! `insula attack`: the isolation attack suite between two tenants of a running
//! Insula, with logins made for it and removed at its end, however it ends.

use std::io::IsTerminal;
use std::sync::Arc;

use indicatif::{ProgressBar, ProgressStyle};
use insula_api::{CreateLogin, CreatedLogin, Tenant};
use insula_attack::{Outcome, Party, Plan, Verdict, corpus};
use insula_domain::{Entropy, OsEntropy, PoolMode, TenantStatus};
use reqwest::Method;
use serde::Serialize;

use crate::args::{AttackArgs, Format};
use crate::client::{Client, Failure, segment};
use crate::output;
use crate::signals::stop_on_signal;

/// What came of an attempt with logins of one pool mode.
#[derive(Serialize)]
struct Line {
    pool_mode: PoolMode,
    #[serde(flatten)]
    outcome: Outcome,
}

/// A login that was made for the suite.
struct Made {
    slug: String,
    name: String,
}

/// Prints the attempts, and runs none.
pub fn list(format: Format, only: Option<&str>) -> Result<(), Failure> {
    #[derive(Serialize)]
    struct Attempt {
        group: &'static str,
        name: &'static str,
        tries: &'static str,
    }
    let attempts: Vec<_> = corpus::named(only)
        .into_iter()
        .map(|(group, attempt)| Attempt { group, name: attempt.name, tries: attempt.tries })
        .collect();
    output::list(format, &attempts, &["group", "name", "tries"], |attempt| {
        [attempt.group, attempt.name, attempt.tries].map(str::to_owned).to_vec()
    })
}

/// Runs the suite.
pub async fn run(client: &Client, format: Format, arguments: AttackArgs) -> Result<(), Failure> {
    let (Some(attacker), Some(victim)) = (&arguments.attacker, &arguments.against) else {
        return Err(Failure::local("invalid_request", "Name two tenants: --as A --against B."));
    };
    let (attacker, victim) = (active(client, attacker).await?, active(client, victim).await?);
    if attacker.id == victim.id {
        return Err(Failure::local("invalid_request", "Name two different tenants: nobody attacks itself."));
    }
    let stop = stop_on_signal().map_err(|error| Failure::local("internal", error.to_string()))?;
    let mut made = Vec::new();
    let ran = tokio::select! {
        ran = both_modes(client, &arguments, (&attacker, &victim), &mut made) => ran,
        () = stop.cancelled() => Err(Failure::local("interrupted", "The suite was interrupted.")),
    };
    let removed = remove(client, &made).await;
    let lines = ran?;
    removed?;
    show(format, &lines, arguments.allow_untried)
}

/// A tenant whose sessions are let in.
async fn active(client: &Client, slug: &str) -> Result<Tenant, Failure> {
    let tenant: Tenant = client.get(&format!("/v1/tenants/{}", segment(slug))).await?;
    if tenant.status == TenantStatus::Active && tenant.placement.is_some() {
        return Ok(tenant);
    }
    let detail = format!("{} is {}: only tenants that are active can take part.", tenant.slug, tenant.status);
    Err(Failure::local("tenant_not_active", detail))
}

async fn both_modes(
    client: &Client,
    arguments: &AttackArgs,
    (attacker, victim): (&Tenant, &Tenant),
    made: &mut Vec<Made>,
) -> Result<Vec<Line>, Failure> {
    let modes = arguments.pool_mode.map_or(vec![PoolMode::Transaction, PoolMode::Session], |mode| vec![mode]);
    let mut lines = Vec::new();
    for pool_mode in modes {
        let plan = Plan {
            attacker: party(client, attacker, pool_mode, made).await?,
            victim: party(client, victim, pool_mode, made).await?,
            only: arguments.only.clone(),
            table: arguments.table.clone(),
        };
        let progress = Progress::new(corpus::named(plan.only.as_deref()).len(), pool_mode);
        let outcomes = insula_attack::run(&plan, Arc::new(OsEntropy), |outcome| progress.tell(outcome)).await;
        progress.end();
        let outcomes = outcomes.map_err(|error| Failure::local("attack", format!("{error}.")))?;
        lines.extend(outcomes.into_iter().map(|outcome| Line { pool_mode, outcome }));
    }
    Ok(lines)
}

/// One side, with a login of its own.
async fn party(
    client: &Client,
    tenant: &Tenant,
    pool_mode: PoolMode,
    made: &mut Vec<Made>,
) -> Result<Party, Failure> {
    let mut random = [0; 4];
    OsEntropy.fill(&mut random);
    let slug = tenant.slug.to_string();
    let name = format!("insula-attack-{:08x}", u32::from_be_bytes(random));
    let request =
        CreateLogin { name: name.clone(), read_only: false, descendants: false, pool_mode: Some(pool_mode) };
    // Known before it is made, so that it is removed also where the answer is lost.
    made.push(Made { slug: slug.clone(), name });
    let path = format!("/v1/tenants/{}/logins", segment(&slug));
    let created: CreatedLogin = client.send(Method::POST, &path, &request).await?;
    let Some(placement) = &tenant.placement else {
        return Err(Failure::local("tenant_not_active", format!("{slug} has no place yet.")));
    };
    Ok(Party {
        url: created.url.into(),
        slug,
        id: tenant.id.to_string(),
        role: placement.role.to_string(),
        schema: placement.schema.to_string(),
        database: placement.database.to_string(),
    })
}

/// Removes the logins; tells which ones could not be.
async fn remove(client: &Client, made: &[Made]) -> Result<(), Failure> {
    let mut left = Vec::new();
    for Made { slug, name } in made {
        let login = format!("{slug}.{name}");
        let path = format!("/v1/tenants/{}/logins/{}", segment(slug), segment(&login));
        match client.order::<()>(Method::DELETE, &path).await {
            Ok(()) => {}
            Err(Failure::Problem(problem)) if problem.code == "login_not_found" => {}
            Err(failure) => left.push(format!("{login} ({failure})")),
        }
    }
    if left.is_empty() {
        return Ok(());
    }
    let detail =
        format!("These logins were made for the suite and could not be removed: {}.", left.join(", "));
    Err(Failure::local("logins_left", detail))
}

/// The progress, on a terminal.
struct Progress(Option<ProgressBar>);

impl Progress {
    fn new(attempts: usize, pool_mode: PoolMode) -> Self {
        Self(std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(attempts as u64).with_prefix(pool_mode.as_str());
            let style =
                ProgressStyle::with_template("{spinner:.green} {prefix} {bar:24.green} {pos}/{len} {msg}");
            bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
        }))
    }

    fn tell(&self, outcome: &Outcome) {
        if let Some(bar) = &self.0 {
            bar.set_message(format!("{}: {}", outcome.group, outcome.name));
            bar.inc(1);
            if outcome.verdict == Verdict::Breached {
                bar.println(format!("breached: {}", outcome.name));
            }
        }
    }

    fn end(&self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

fn show(format: Format, lines: &[Line], allow_untried: bool) -> Result<(), Failure> {
    let counts = [Verdict::Held, Verdict::Breached, Verdict::CouldNotBeTried]
        .map(|verdict| lines.iter().filter(|line| line.outcome.verdict == verdict).count());
    let [held, breached, untried] = counts;
    if format == Format::Json {
        output::json(&serde_json::json!({
            "items": lines, "held": held, "breached": breached, "could_not_be_tried": untried,
        }))?;
    } else {
        by_group(format, lines)?;
        for verdict in [Verdict::CouldNotBeTried, Verdict::Breached] {
            for line in lines.iter().filter(|line| line.outcome.verdict == verdict) {
                tell(line);
            }
        }
        output::note(&format!("{held} held, {breached} breached, {untried} could not be tried"));
    }
    let ended = ending(counts, allow_untried);
    if matches!(ended, Err(Failure::Untried)) {
        output::note(&format!(
            "insula: {untried} attempts could not be tried, so that it is not known whether they would succeed: \
             see why above, or take it with --allow-untried where others held."
        ));
    }
    ended
}

/// What so many that held, that were breached and that could not be tried come to.
fn ending([held, breached, untried]: [usize; 3], allow_untried: bool) -> Result<(), Failure> {
    match untried {
        _ if breached > 0 => Err(Failure::Breached),
        0 => Ok(()),
        _ if allow_untried && held > 0 => Ok(()),
        _ => Err(Failure::Untried),
    }
}

fn by_group(format: Format, lines: &[Line]) -> Result<(), Failure> {
    let groups: Vec<&str> = corpus::GROUPS.iter().map(|group| group.name).collect();
    let with_lines = |group: &&str| lines.iter().any(|line| line.outcome.group == *group);
    let groups: Vec<&str> = groups.into_iter().filter(with_lines).collect();
    let columns = ["group", "attempts", "held", "breached", "could not be tried"];
    output::list(format, &groups, &columns, |group| {
        let of_group = || lines.iter().filter(|line| line.outcome.group == *group);
        let count = |verdict| of_group().filter(|line| line.outcome.verdict == verdict).count().to_string();
        vec![
            (*group).to_owned(),
            of_group().count().to_string(),
            count(Verdict::Held),
            count(Verdict::Breached),
            count(Verdict::CouldNotBeTried),
        ]
    })
}

/// An attempt in full.
fn tell(line: &Line) {
    let Line { pool_mode, outcome } = line;
    let verdict = outcome.verdict.as_str().replace('_', " ");
    output::note(&format!("{verdict}: {} ({}, pool mode {pool_mode})", outcome.name, outcome.group));
    output::note(&format!("  tried: {}", outcome.tried));
    output::note(&format!("  saw:   {}", outcome.saw));
    output::note(&format!("  why:   {}", outcome.why.as_deref().unwrap_or("-")));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_suite_that_was_tried_and_held_ends_well() {
        let is_breached = |ended| matches!(ended, Err(Failure::Breached));
        let is_untried = |ended| matches!(ended, Err(Failure::Untried));
        for allow_untried in [false, true] {
            assert!(ending([9, 0, 0], allow_untried).is_ok());
            assert!(is_breached(ending([9, 1, 0], allow_untried)));
            assert!(is_breached(ending([0, 1, 9], allow_untried)));
            assert!(is_untried(ending([0, 0, 9], allow_untried)), "nothing is known");
        }
        assert!(is_untried(ending([9, 0, 1], false)) && ending([9, 0, 1], true).is_ok());
    }
}
