//! What every backend of the configuration service must do, as checks that run
//! against any of them: PostgreSQL, etcd, DynamoDB, Parameter Store. A backend
//! in memory, right or with a defect of choice, shows that the checks can fail.

mod checks;
mod ground;
mod labels;
mod memory;
mod moved;

use std::sync::Arc;
use std::time::Duration;

use insula_config_model::Backend;

pub use checks::CHECKS;
pub use ground::{Ground, text_of, value_of};
pub use memory::{Defect, MemoryBackend};
pub use moved::moved_under_writes;

/// How long one check may take: emulators are slow, and machines busy.
const CHECK_TIME_MAX: Duration = Duration::from_secs(120);

/// A check that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Its name in [`CHECKS`].
    pub check: &'static str,
    /// What it saw.
    pub said: String,
}

/// What is known to be wrong with an emulator, not with the backend.
#[derive(Debug, Clone, Copy)]
pub struct Gap {
    /// The name of the check that shows it.
    pub check: &'static str,
    /// What is wrong.
    pub why: &'static str,
    /// Whether the check fails every time.
    pub always: bool,
}

/// Runs every check, each on scopes of its own, and gives those that failed.
pub async fn failures(backend: &Arc<dyn Backend>) -> Vec<Failure> {
    let mut failures = Vec::new();
    for (check, run) in CHECKS {
        failures.extend(failure(check, *run, backend).await);
    }
    failures
}

/// Runs one check.
async fn failure(check: &'static str, run: checks::Run, backend: &Arc<dyn Backend>) -> Option<Failure> {
    let task = tokio::spawn(run(Ground::new(Arc::clone(backend))));
    let said = match tokio::time::timeout(CHECK_TIME_MAX, task).await {
        Ok(Ok(())) => return None,
        Ok(Err(ended)) => said(ended),
        Err(_) => format!("did not end within {CHECK_TIME_MAX:?}"),
    };
    Some(Failure { check, said })
}

fn said(ended: tokio::task::JoinError) -> String {
    let Ok(panic) = ended.try_into_panic() else { return "was cancelled".to_owned() };
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
}

/// Runs every check; those that fail must be the gaps that are known.
///
/// # Panics
/// Where a check fails that is no gap, or one passes that always fails.
pub async fn conforms(backend: Arc<dyn Backend>, gaps: &[Gap]) {
    let failures = failures(&backend).await;
    for gap in gaps {
        let seen = failures.iter().any(|failure| failure.check == gap.check);
        assert!(seen || !gap.always, "{} passes now; take it from the gaps ({})", gap.check, gap.why);
    }
    let unknown: Vec<String> = failures
        .iter()
        .filter(|failure| gaps.iter().all(|gap| gap.check != failure.check))
        .map(|failure| format!("{}: {}", failure.check, failure.said))
        .collect();
    assert!(unknown.is_empty(), "{} of {} checks:\n{}", unknown.len(), CHECKS.len(), unknown.join("\n"));
}
