//! Saying to other processes that there are changes: behind the commit, so that
//! nobody who writes waits for it. It is a wake-up, which is lost where a process
//! ends in between; whoever follows the log looks at it by itself too.

use std::time::Duration;

use insula_config_model::Revision;
use insula_problem::Problem;
use tokio::sync::watch;

use crate::ConfigStore;

/// What is committed is on disk already: nothing waits for this.
const NOTIFY: &str = "select set_config('synchronous_commit', 'off', true), pg_notify('insula_config', $1)";

/// How long behind a commit: those who are told of it in this process are told
/// before the server has to wake others.
const BEHIND: Duration = Duration::from_millis(1);

impl ConfigStore {
    /// Says up to which revision there are changes.
    pub(crate) async fn notify(&self, revision: Revision) -> Result<(), Problem> {
        self.following.query(NOTIFY, &[&revision.to_string()]).await.map(drop)
    }

    /// Says it for a writer, one after the other: where several are committed
    /// meanwhile, of the last one.
    pub(crate) fn notices(&self) -> Notices {
        let (newest, mut told) = watch::channel(0);
        let store = self.clone();
        tokio::spawn(async move {
            while told.changed().await.is_ok() {
                tokio::time::sleep(BEHIND).await;
                let newest = *told.borrow_and_update();
                if let Err(problem) = store.notify(newest).await {
                    tracing::info!(cause = problem.chain(), "other processes were not told of changes");
                }
            }
        });
        Notices(newest)
    }
}

/// What is said; it ends with this, behind what was committed last.
#[derive(Debug)]
pub(crate) struct Notices(watch::Sender<Revision>);

impl Notices {
    /// There are changes up to this revision.
    pub fn committed(&self, revision: Revision) {
        self.0.send_replace(revision);
    }
}
