//! Keys and tokens that were verified, and who hears of their end. A revoked
//! one is notified and looked for every few seconds, so that a notification that
//! is lost costs seconds; with the catalog away, those that are known hold on.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use insula_catalog::ACCESS_CHANNEL;
use insula_credentials::SecretHash;
use insula_domain::{ApiKeyId, TenantId};
use insula_problem::{Code, Problem};
use insula_sql_store::Listener;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::Access;

/// The most keys and tokens that are held at once.
const HELD_MAX: usize = 50_000;

/// How many are looked for with one question.
const AT_ONCE: usize = 5_000;

/// How often revoked ones are looked for, whatever was notified.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Wait before another try where the catalog is away.
const RETRY: Duration = Duration::from_millis(500);

/// Whose a credential is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holder {
    /// A tenant's API key.
    Key {
        /// Which.
        id: ApiKeyId,
        /// Whose.
        tenant: TenantId,
        /// The role of requests that carry it.
        role: String,
        /// The path that it is bound to.
        path: Option<String>,
    },
    /// An operator.
    Operator {
        /// E-mail address.
        email: String,
    },
}

/// A credential that was verified, and holds until it says that it has ended.
#[derive(Debug)]
pub struct Pass {
    /// Whose it is.
    pub holder: Holder,
    ended: CancellationToken,
    /// Whether its end is heard of.
    is_followed: bool,
}

impl Pass {
    /// One that does not end.
    #[must_use]
    pub fn unending(holder: Holder) -> Self {
        Self { holder, ended: CancellationToken::new(), is_followed: false }
    }

    /// Whether it says when it ends: a password does not, and so opens nothing
    /// that lasts.
    #[must_use]
    pub fn is_followed(&self) -> bool {
        self.is_followed
    }

    fn followed(holder: Holder) -> Self {
        Self { is_followed: true, ..Self::unending(holder) }
    }

    /// Cancelled when the credential is revoked.
    #[must_use]
    pub fn ended(&self) -> &CancellationToken {
        &self.ended
    }
}

#[derive(Debug)]
struct One {
    hash: SecretHash,
    pass: Arc<Pass>,
}

/// What is held.
#[derive(Debug, Default)]
pub struct Held {
    all: RwLock<HashMap<Uuid, One>>,
}

impl Held {
    fn read(&self) -> RwLockReadGuard<'_, HashMap<Uuid, One>> {
        self.all.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, HashMap<Uuid, One>> {
        self.all.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn find(&self, id: Uuid) -> Option<(SecretHash, Arc<Pass>)> {
        self.read().get(&id).map(|one| (one.hash, one.pass.clone()))
    }

    /// Keeps one; where there is no room, those go that nobody uses right now.
    pub fn keep(&self, id: Uuid, hash: SecretHash, holder: Holder) -> Result<Arc<Pass>, Problem> {
        let mut all = self.write();
        if all.len() >= HELD_MAX {
            all.retain(|_, one| Arc::strong_count(&one.pass) > 1);
        }
        if all.len() >= HELD_MAX {
            let detail = "As many keys as may be are in use. Try again shortly.";
            return Err(Problem::new(Code::Overloaded, detail).retry_after(5));
        }
        let one = all.entry(id).or_insert_with(|| One { hash, pass: Arc::new(Pass::followed(holder)) });
        Ok(one.pass.clone())
    }

    fn ids(&self, of_keys: bool) -> Vec<Uuid> {
        let is_one = |one: &One| matches!(one.pass.holder, Holder::Key { .. }) == of_keys;
        self.read().iter().filter(|(_, one)| is_one(one)).map(|(id, _)| *id).collect()
    }

    fn end(&self, id: Uuid) {
        if let Some(one) = self.write().remove(&id) {
            one.pass.ended.cancel();
            tracing::info!(credential = %id, "a key or token that was in use has ended");
        }
    }
}

impl Access {
    /// Ends what is revoked, until it is told to stop.
    pub async fn follow(&self, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                end = self.follow_connected() => {
                    let Err(problem) = end;
                    tracing::warn!(cause = problem.chain(), "revoked keys cannot be followed; the known ones hold on");
                }
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(RETRY) => {}
            }
        }
    }

    async fn follow_connected(&self) -> Result<Infallible, Problem> {
        let mut listener =
            Listener::open(self.catalog.connector(), &[ACCESS_CHANNEL]).await.map_err(Problem::internal)?;
        let mut look = interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = look.tick() => {}
                notice = listener.next() => {
                    if notice.is_none() {
                        return Err(Problem::internal("the listening connection ended"));
                    }
                    listener.drain();
                }
            }
            self.end_what_is_revoked().await?;
        }
    }

    /// Looks at all that is held.
    pub(crate) async fn end_what_is_revoked(&self) -> Result<(), Problem> {
        for of_keys in [true, false] {
            for ids in self.held.ids(of_keys).chunks(AT_ONCE) {
                let client = self.catalog.client().await?;
                let ended = if of_keys {
                    client.ended_api_keys(ids).await?
                } else {
                    client.ended_operator_tokens(ids).await?
                };
                ended.into_iter().for_each(|id| self.held.end(id));
            }
        }
        Ok(())
    }
}
