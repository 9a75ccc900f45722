//! The seat from which a move works on a server: whoever takes it has it alone,
//! and an earlier worker that still believes in its run finds its connection gone.

use std::ops::{Deref, DerefMut};
use std::time::Duration;

use insula_domain::{DatabaseName, TenantId};
use insula_problem::{Code, Problem};
use tokio::sync::OnceCell;
use tokio::time::{Instant, sleep};
use tokio_postgres::Client;

use super::entry::Leaving;
use super::{Place, session_name};
use crate::access::{ClusterAccess, Connection, MAINTENANCE, Through};
use crate::{db, literal};

/// How long whoever has the seat is given to be gone.
const LIMIT: Duration = Duration::from_secs(10);

/// The pause from one try to the next.
const PAUSE: Duration = Duration::from_millis(5);

/// A connection of its own that holds the lock of a tenant's move. What a move
/// does to a server for good goes through it, or through connections for which
/// it vouches, so that it fails from the moment on that another worker has taken
/// the seat. It ends when it is dropped.
#[derive(Debug)]
pub struct Seat {
    client: Connection,
    tenant: TenantId,
    leaving: OnceCell<Leaving>,
    access: ClusterAccess,
}

/// A place, and over which connections it is worked on: those of anybody, or those
/// beside a seat on its server, which end when another worker has that.
#[derive(Debug, Clone, Copy)]
pub struct At<'a> {
    pub(super) place: &'a Place,
    pub(super) through: Through<'a>,
}

impl<'a> From<&'a Place> for At<'a> {
    fn from(place: &'a Place) -> Self {
        Self { place, through: Through::Pools(&place.access) }
    }
}

impl<'a> From<(&'a Seat, &'a Place)> for At<'a> {
    fn from((seat, place): (&'a Seat, &'a Place)) -> Self {
        Self { place, through: Through::Seat(seat) }
    }
}

impl At<'_> {
    /// As [`Place::connect`].
    pub(super) async fn connect(&self) -> Result<Connection, Problem> {
        match self.through {
            Through::Pools(_) => self.place.connect().await,
            Through::Seat(seat) => self.place.beside(seat).await,
        }
    }
}

/// A seat as other connections to its database see it.
#[derive(Debug, Clone)]
pub(super) struct Held {
    /// The process of the session that has the seat.
    process: i32,
    key: String,
}

impl Held {
    /// Makes sure that the seat is still whose it was: asked over a connection
    /// that is about to write to the placement. Who takes the seat later ends that
    /// connection as well.
    ///
    /// # Errors
    /// Where somebody else has the seat, or the cluster is away.
    pub async fn vouch(&self, client: &Client) -> Result<(), Problem> {
        let holders = holders(&self.key);
        let held = client
            .query_one(&format!("select exists (select {holders} and l.pid = $1)"), &[&self.process])
            .await
            .map_err(db)?;
        if held.get(0) {
            return Ok(());
        }
        Err(Problem::new(Code::Unavailable, "Another worker has taken the move over."))
    }
}

/// Who has a seat, as the rest of a query; the halves of its key are as the view
/// of locks has them.
fn holders(key: &str) -> String {
    format!(
        "from pg_locks l
         where l.locktype = 'advisory' and l.objsubid = 1 and l.granted
           and l.database = (select oid from pg_database where datname = current_database())
           and (l.classid::bigint << 32) | l.objid::bigint = {key}"
    )
}

/// What the sessions beside a tenant's seat are called.
fn beside_name(tenant: TenantId) -> String {
    format!("insula seat {tenant}")
}

fn key(tenant: TenantId) -> String {
    format!("hashtextextended({}, 0)", literal(&session_name(tenant)))
}

impl Seat {
    /// Takes the seat on a server, in the database in which roles and rights
    /// are changed, and ends the session of whoever has it, with those beside it.
    ///
    /// # Errors
    /// Where the cluster is away, or one of those does not end within 10 s.
    pub async fn take(access: &ClusterAccess, tenant: TenantId) -> Result<Self, Problem> {
        let client = access.own(&DatabaseName::from_stored(MAINTENANCE.to_owned())).await?;
        client
            .batch_execute(
                "set statement_timeout = '15s'; set lock_timeout = '5s'; set jit = off;
                 set plan_cache_mode = force_generic_plan",
            )
            .await
            .map_err(db)?;
        let seat = Self::sit(client, access.clone(), tenant).await?;
        seat.end_others("application_name = $1", &beside_name(tenant)).await?;
        seat.leaving().await?;
        Ok(seat)
    }

    /// The same for what takes as long as there is to be done: a statement has
    /// no limit of its own.
    ///
    /// # Errors
    /// Where the cluster is away.
    pub async fn at_length(self) -> Result<Self, Problem> {
        let settings = "set statement_timeout = 0; set lock_timeout = '30s'; set plan_cache_mode = auto";
        self.batch_execute(settings).await.map_err(db)?;
        Ok(self)
    }

    /// A connection to a database of the server, for what is done to it from the
    /// seat that [`Self::take`] has taken: whoever takes that later ends it.
    ///
    /// # Errors
    /// Where the cluster is away, or somebody else has the seat.
    pub async fn beside(&self, database: &DatabaseName) -> Result<Connection, Problem> {
        let client = self.access.called(&beside_name(self.tenant), database).await?;
        self.vouch().await?;
        Ok(client)
    }

    /// What a replication connection beside the seat is called, from the moment on
    /// that it is opened; then it is to be vouched for.
    pub(super) fn beside_name(&self) -> String {
        beside_name(self.tenant)
    }

    /// Makes sure that the seat was not taken before a connection was there that
    /// is beside it: the session with the lock still answers. Who takes the seat
    /// after this finds that connection, and ends it.
    pub(super) async fn vouch(&self) -> Result<(), Problem> {
        self.client.batch_execute("select").await.map_err(db)
    }

    /// Takes the seat in the placement's database, for what is changed there,
    /// and ends all other sessions that a move of the tenant has there. It is
    /// another seat than that of [`Self::take`].
    ///
    /// # Errors
    /// As there.
    pub async fn take_at(place: &Place) -> Result<Self, Problem> {
        let seat = Self::sit(place.connect().await?, place.access.clone(), place.tenant).await?;
        let here = "application_name = $1 and datname = current_database()";
        seat.end_others(here, &session_name(place.tenant)).await?;
        Ok(seat)
    }

    /// Ends what earlier workers of the tenant's moves have open in a database of
    /// the server, and waits until that is gone. One that was suspended in the midst
    /// of a copy, or cut off, has tables locked that are to be removed.
    ///
    /// # Errors
    /// Where the seat has been taken, or one of those sessions does not end within 10 s.
    pub async fn end_at(&self, database: &DatabaseName) -> Result<(), Problem> {
        let there = format!("application_name = $1 and datname = {}", literal(database.as_str()));
        self.end_others(&there, &session_name(self.tenant)).await
    }

    /// Ends the sessions of an earlier worker, and waits until they are gone.
    async fn end_others(&self, which: &str, name: &str) -> Result<(), Problem> {
        let end = format!(
            "select coalesce(bool_and(pg_terminate_backend(pid, $2)), true) from pg_stat_activity
             where usename = current_user and pid <> pg_backend_pid() and {which}"
        );
        let wait = i64::try_from(LIMIT.as_millis()).unwrap_or(i64::MAX);
        if self.query_one(&end, &[&name, &wait]).await.map_err(db)?.get(0) {
            return Ok(());
        }
        Err(Problem::internal("sessions of an earlier worker of a move do not end"))
    }

    /// The seat as other connections to its database see it.
    pub(super) async fn held(&self) -> Result<Held, Problem> {
        let row = self.query_one("select pg_backend_pid()", &[]).await.map_err(db)?;
        Ok(Held { process: row.get(0), key: key(self.tenant) })
    }

    /// The questions by which a placement is emptied. Planning them takes five
    /// times as long as carrying them out, and later a tenant waits: they are
    /// planned when the seat is taken, once for all.
    pub(super) async fn leaving(&self) -> Result<&Leaving, Problem> {
        self.leaving.get_or_try_init(|| Leaving::prepare(self)).await
    }

    /// Whose move it is.
    #[must_use]
    pub fn tenant(&self) -> TenantId {
        self.tenant
    }

    async fn sit(client: Connection, access: ClusterAccess, tenant: TenantId) -> Result<Self, Problem> {
        let key = key(tenant);
        let take = format!("select pg_try_advisory_lock({key})");
        let holders = holders(&key);
        let end = format!("select pg_terminate_backend(l.pid, 1000) {holders} and l.pid <> pg_backend_pid()");
        let until = Instant::now() + LIMIT;
        loop {
            if client.query_one(&take, &[]).await.map_err(db)?.get(0) {
                return Ok(Self { client, tenant, access, leaving: OnceCell::new() });
            }
            if Instant::now() > until {
                return Err(Problem::internal("the earlier worker of a move does not let go of its seat"));
            }
            client.query(&end, &[]).await.map_err(db)?;
            sleep(PAUSE).await;
        }
    }
}

impl DerefMut for Seat {
    fn deref_mut(&mut self) -> &mut Client {
        &mut self.client
    }
}

impl Deref for Seat {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}
