//! What comes of comparing both ends of a move: what was found equal is recorded
//! as it is found, for a worker that goes on, and what differs is told by key.

use std::convert::Infallible;
use std::time::Duration;

use insula_problem::{Code, Problem};
use insula_tenant_cluster::moving::{Compared, Comparison, Difference, Verified};
use insula_workflow::StepError;
use serde::Deserialize;
use serde_json::json;

use super::Hand;
use crate::Control;
use crate::workflows::retried;

/// How often what was found equal is recorded.
const RECORD: Duration = Duration::from_secs(1);

/// How many differences are told in words; more are in the manifest.
const IN_WORDS: usize = 10;

/// A comparison that goes on from what was recorded of the move before.
pub(super) async fn comparison(control: &Control, hand: &Hand) -> Result<Comparison, StepError> {
    let client = control.catalog.client().await.map_err(retried)?;
    let recorded = client.compared(hand.record.id).await.map_err(retried)?;
    // What another version of the program has recorded is found anew.
    let compared = recorded.and_then(|recorded| Compared::deserialize(recorded).ok());
    Ok(Comparison::going_on(compared.unwrap_or_default()))
}

/// Records what is found equal. That it cannot be recorded stops nothing.
pub(super) async fn record(control: &Control, hand: &Hand, comparison: &Comparison) -> Infallible {
    let mut recorded = comparison.compared();
    loop {
        tokio::time::sleep(RECORD).await;
        let now = comparison.compared();
        if now == recorded {
            continue;
        }
        let written =
            async { control.catalog.client().await?.set_compared(hand.record.id, &json!(now)).await };
        match written.await {
            Ok(()) => recorded = now,
            Err(problem) => tracing::debug!(problem = problem.chain(), "what is equal could not be recorded"),
        }
    }
}

/// Notes the first differences with the move, by key.
pub(super) async fn note(control: &Control, hand: &Hand, verified: &Verified) -> Result<(), Problem> {
    let record = &hand.record;
    let found = json!({"rows": verified.rows_differing, "first": verified.differences});
    let mut client = control.catalog.client().await?;
    let change = client.change(control.worker()).await?;
    change.set_move_manifest(record.id, &json!({"differences": found})).await?;
    let detail = json!({"move": record.id, "rows": verified.rows_differing});
    change.audit("tenant.move.diverged", Some(record.tenant), &record.tenant.to_string(), &detail).await?;
    change.commit().await
}

/// The problem that the ends differ.
pub(super) fn problem(verified: &Verified) -> Problem {
    let told = |found: &Difference| format!("{} {} ({})", found.table, found.key, found.what);
    let mut first: Vec<String> = verified.differences.iter().take(IN_WORDS).map(told).collect();
    if verified.differences.len() > IN_WORDS {
        first.push("and more, of which the move lists the first 100 under differences".to_owned());
    }
    Problem::new(
        Code::MoveDiverged,
        format!(
            "The ends differ in {} rows: {}. The move is undone, and the tenant stays where it is.",
            verified.rows_differing,
            first.join("; ")
        ),
    )
}

#[cfg(test)]
mod tests {
    use insula_tenant_cluster::moving::Differs;

    use super::*;

    #[test]
    fn the_first_few_differences_are_told_in_words() {
        let differences = |count: u32| -> Vec<Difference> {
            (0..count)
                .map(|number| Difference {
                    table: "orders".to_owned(),
                    key: format!("id={number}"),
                    what: Differs::OtherValues,
                })
                .collect()
        };
        let verified = |differences: Vec<Difference>| Verified {
            rows: 7,
            rows_before: 0,
            checksum: String::new(),
            rows_differing: 4_000,
            differences,
        };
        let few = problem(&verified(differences(1)));
        let words = "The ends differ in 4000 rows: orders id=0 (with other values). The move";
        assert!(few.detail().starts_with(words), "{}", few.detail());
        let many = problem(&verified(differences(100)));
        assert!(many.detail().contains("id=9 ") && many.detail().contains("and more"), "{}", many.detail());
        assert!(!many.detail().contains("id=10 "), "{}", many.detail());
    }
}
