//! Databases that let their tenant's role in no more. So it is for a moment while
//! a tenant is moved: at its old place until its new one is known here, and at
//! the new one until it is opened. Who waits goes on waiting; one backend is
//! tried again and again until it is let in.

use std::fmt;
use std::sync::Weak;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use insula_pg_wire::backend::error_fields;
use tokio::time::sleep;

use super::{Cluster, Destination};
use crate::backend::{Backend, BackendError};
use crate::refusal::Refusal;

/// For so long sessions wait for a database to be opened. A move that fails
/// while one is closed is taken up again by another worker within about as long.
pub(super) const TRIED_FOR: Duration = Duration::from_secs(30);

/// Pause between two tries: at first about as long as the rest of a move takes,
/// and then longer, since each costs the server a process.
const PAUSE_MIN: Duration = Duration::from_millis(5);
const PAUSE_MAX: Duration = Duration::from_millis(250);

/// How PostgreSQL refuses a role that may not log in, or may not use the
/// database, and a database that takes no connections: SQLSTATE, and the place in
/// its source, which tells it from other errors with the same SQLSTATE.
const CLOSED: &[(&[u8], &[u8])] =
    &[(b"42501", b"CheckMyDatabase"), (b"55000", b"CheckMyDatabase"), (b"28000", b"InitializeSessionUserId")];

/// Why there is no backend.
#[derive(Debug)]
pub(super) enum NotOpened {
    /// The server lets the role in no more.
    Closed(Refusal),
    Failed(Refusal),
}

impl fmt::Display for NotOpened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed(refusal) | Self::Failed(refusal) => refusal.fmt(f),
        }
    }
}

impl NotOpened {
    /// What sessions are told, and the log.
    pub fn of(to: &Destination, error: &BackendError) -> Self {
        let (cluster, tenant) = (&to.endpoint.name, &to.slug);
        if is_closed(error) {
            tracing::debug!(%cluster, %tenant, %error, "a tenant's database is closed");
            return Self::Closed(Refusal::closed(tenant));
        }
        if matches!(error, BackendError::Refused { sqlstate, .. } if sqlstate == "28P01") {
            tracing::error!(%cluster, %tenant, %error, "a server refuses the password of a tenant's role");
            return Self::Failed(Refusal::role_refused());
        }
        let cause = std::error::Error::source(error).map(ToString::to_string);
        tracing::warn!(%cluster, %tenant, %error, cause, "a backend could not be opened");
        let is_full = error.is_full();
        Self::Failed(if is_full {
            Refusal::too_many_for_cluster(cluster)
        } else {
            Refusal::placement_unavailable()
        })
    }

    pub fn into_refusal(self) -> Refusal {
        match self {
            Self::Closed(refusal) | Self::Failed(refusal) => refusal,
        }
    }
}

fn is_closed(error: &BackendError) -> bool {
    let BackendError::Refused { body, .. } = error else { return false };
    error_fields(body).is_ok_and(|fields| {
        CLOSED.iter().any(|(sqlstate, routine)| {
            fields.contains(&(b'C', sqlstate)) && fields.contains(&(b'R', routine))
        })
    })
}

impl Cluster {
    /// Opens a backend, where somebody still wants one.
    pub(super) async fn try_to_open(&self, destination: &Weak<Destination>) -> Result<Backend, NotOpened> {
        match destination.upgrade() {
            Some(destination) => self.opener.open(&destination).await,
            None => Err(NotOpened::Failed(Refusal::placement_unavailable())),
        }
    }

    /// The same, as long as the database is closed and there is time.
    pub(super) async fn try_until_open(&self, destination: &Weak<Destination>) -> Result<Backend, NotOpened> {
        let say = |is_closed: bool| {
            let Some(destination) = destination.upgrade() else { return };
            destination.is_closed.store(is_closed, Ordering::Relaxed);
            let (cluster, tenant) = (&destination.endpoint.name, &destination.slug);
            tracing::info!(%cluster, %tenant, is_closed, "whether a tenant's database is closed");
        };
        say(true);
        let (began, mut pause) = (Instant::now(), PAUSE_MIN);
        let opened = loop {
            sleep(pause).await;
            let opened = self.try_to_open(destination).await;
            if !matches!(opened, Err(NotOpened::Closed(_))) || began.elapsed() + pause >= TRIED_FOR {
                break opened;
            }
            pause = (pause * 2).min(PAUSE_MAX);
        };
        say(false);
        opened
    }
}
