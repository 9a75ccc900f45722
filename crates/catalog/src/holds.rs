//! Holds of tenants: the worker sets one, fronts say when nothing of the tenant
//! is under way with them any more, and the worker waits for all that are told
//! of changes. A front that is not told does not count; what keeps data safe is
//! the fence in PostgreSQL, and not a front.
//!
//! To miss no front: open the watch, set the hold, and only then ask which
//! fronts there are. One that comes later reads the hold before it serves.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::future::try_join_all;
use insula_domain::{Epoch, OperationId, TenantId};
use insula_problem::Problem;
use insula_route_map::HoldReport;
use insula_sql_store::{Connector, Listener};
use tokio::sync::mpsc;
use tokio::time::{Instant, interval, timeout_at};
use tokio_postgres::{Client, Statement};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::change::{AUDIT, CatalogClient};
use crate::moves::{CUT_OVER, END_WHEN_SILENT, SET_TARGET_OPEN};
use crate::schema_versions::{HOLD_NEWEST, NEWEST};
use crate::{Catalog, db};

/// What a front is called among the catalog's sessions, before its number.
const FRONT_PREFIX: &str = "insula-front/";

/// On which fronts report.
const CHANNEL: &str = "insula_holds";

/// Pause between two looks at which fronts are still there.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// How a front is called on the connection on which it follows the routes.
pub(crate) fn front_name(front: Uuid) -> String {
    format!("{FRONT_PREFIX}{front}")
}

const SET_HOLD: &str = "with last as (select from moves where id = $5 and try = $6 for share)
     update placements set hold_id = $3, hold_ms = $4
     from last, (select set_config('synchronous_commit', 'off', true)) as quickly
     where tenant_id = $1 and epoch = $2 and (hold_id is null or hold_id = $3)";

/// The try at a cutover for which a tenant is held.
#[derive(Debug, Clone, Copy)]
pub struct HoldOf {
    /// The move.
    pub tenant_move: OperationId,
    /// The number of the try.
    pub number: i32,
    /// Who moves.
    pub tenant: TenantId,
    /// The epoch under which it is served.
    pub epoch: Epoch,
}

impl CatalogClient {
    /// Prepares all that a cutover asks of this connection, so that a tenant
    /// that is held does not wait for it.
    ///
    /// # Errors
    /// Where the catalog is away.
    pub async fn prepare_cutover(&self) -> Result<(), Problem> {
        let texts = [SET_HOLD, SET_TARGET_OPEN, END_WHEN_SILENT, HOLD_NEWEST, NEWEST, CUT_OVER, AUDIT];
        let all = texts.into_iter().map(|text| self.prepared().prepare_cached(text));
        try_join_all(all).await.map(drop).map_err(db)
    }

    /// Has the fronts hold a tenant whose placement has this epoch, and no other
    /// hold, for the last try at its move; false where that is not so. It need not
    /// outlast a crash of the catalog, and so does not wait for the disk.
    ///
    /// The lock has the next try, which counts its number up, come either before,
    /// and is seen, or behind, and lets the tenant go: a statement that comes late
    /// leaves nobody held.
    ///
    /// # Errors
    /// Where the catalog is away, or the time is none.
    pub async fn set_hold(&self, of: &HoldOf, hold: Uuid, within: Duration) -> Result<bool, Problem> {
        let milliseconds = i32::try_from(within.as_millis()).unwrap_or(i32::MAX);
        let set = self.prepared().prepare_cached(SET_HOLD).await.map_err(db)?;
        let rows = self
            .raw()
            .execute(
                &set,
                &[
                    &of.tenant.as_uuid(),
                    &of.epoch.0,
                    &hold,
                    &milliseconds,
                    &of.tenant_move.as_uuid(),
                    &of.number,
                ],
            )
            .await
            .map_err(db)?;
        Ok(rows == 1)
    }

    /// Has the fronts do with few backends of a tenant whose placement has this
    /// epoch, while the move goes on. It ends with [`Self::widen`], and with each change
    /// of the move's status: the lock has that come either before, and is seen, or
    /// behind, so that a statement that comes late leaves nobody narrowed.
    ///
    /// # Errors
    /// Where the catalog is away.
    pub async fn narrow(&self, tenant: TenantId, epoch: Epoch, of: OperationId) -> Result<(), Problem> {
        self.raw()
            .execute(
                "with going_on as (select from moves
                                   where id = $3 and status in ('running', 'rolling_back') for share)
                 update placements set narrowed = true from going_on
                 where tenant_id = $1 and epoch = $2 and not narrowed",
                &[&tenant.as_uuid(), &epoch.0, &of.as_uuid()],
            )
            .await
            .map(drop)
            .map_err(db)
    }

    /// Has the fronts give a tenant as many backends as its plan says.
    ///
    /// # Errors
    /// Where the catalog is away.
    pub async fn widen(&self, tenant: TenantId) -> Result<(), Problem> {
        self.raw()
            .execute(
                "update placements set narrowed = false where tenant_id = $1 and narrowed",
                &[&tenant.as_uuid()],
            )
            .await
            .map(drop)
            .map_err(db)
    }

    /// Lets a tenant go, by whichever hold it is held, where its placement has
    /// this epoch, and no later try at its move has begun, whose hold it would be:
    /// what a worker that died has left. `false` where nobody was held.
    ///
    /// # Errors
    /// Where the catalog is away.
    pub async fn clear_hold(&self, of: &HoldOf) -> Result<bool, Problem> {
        let rows = self
            .raw()
            .execute(
                "with last as (select from moves where id = $3 and try = $4 for share)
                 update placements set hold_id = null, hold_ms = null
                 from last, (select set_config('synchronous_commit', 'off', true)) as quickly
                 where tenant_id = $1 and epoch = $2 and hold_id is not null",
                &[&of.tenant.as_uuid(), &of.epoch.0, &of.tenant_move.as_uuid(), &of.number],
            )
            .await
            .map_err(db)?;
        Ok(rows == 1)
    }
}

/// What became of waiting for the fronts.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum Acknowledged {
    /// Nothing of the tenant is under way at any of them.
    ByAll,
    /// These have not said so in time.
    NotBy(Vec<Uuid>),
}

/// What a front has measured of a hold that is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReleasedHold {
    /// The front.
    pub front: Uuid,
    /// How long the client has waited that waited longest, from when it wanted
    /// to begin until it had a backend.
    pub longest_wait: Duration,
    /// How many have waited.
    pub clients: u32,
}

/// Hears what fronts say of one hold, on a connection of its own.
#[derive(Debug)]
pub struct HoldWatch {
    listener: Listener,
    live: Statement,
    hold: Uuid,
    quiet: BTreeSet<Uuid>,
    released: BTreeMap<Uuid, ReleasedHold>,
}

impl HoldWatch {
    /// Listens from here on. The hold is to be set after this.
    ///
    /// # Errors
    /// Where the catalog is away.
    pub async fn open(catalog: &Catalog, hold: Uuid) -> Result<Self, Problem> {
        let listener = Listener::open(catalog.connector(), &[CHANNEL]).await.map_err(Problem::internal)?;
        let live = listener.client().prepare(&live_fronts()).await.map_err(db)?;
        let watch = Self { listener, live, hold, quiet: BTreeSet::new(), released: BTreeMap::new() };
        // When it is asked again a tenant waits: the connection is new, and the first question on it takes milliseconds.
        watch.live_fronts().await?;
        Ok(watch)
    }

    /// The fronts that are told of changes now. To be asked when the hold is set.
    ///
    /// # Errors
    /// Where the catalog is away.
    pub async fn live_fronts(&self) -> Result<BTreeSet<Uuid>, Problem> {
        let rows = self.listener.client().query(&self.live, &[]).await.map_err(db)?;
        let number = |name: &str| name.strip_prefix(FRONT_PREFIX)?.parse().ok();
        Ok(rows.iter().filter_map(|row| number(row.get(0))).collect())
    }

    /// Waits until each of the fronts that is still there has said that nothing of
    /// the tenant is under way with it.
    ///
    /// # Errors
    /// Where the catalog is away.
    pub async fn acknowledged(
        &mut self,
        fronts: &BTreeSet<Uuid>,
        deadline: Instant,
    ) -> Result<Acknowledged, Problem> {
        let missing = self.until(fronts, deadline, |watch, front| watch.quiet.contains(front)).await?;
        Ok(if missing.is_empty() { Acknowledged::ByAll } else { Acknowledged::NotBy(missing) })
    }

    /// What the fronts have measured, once the hold is over: of all that are
    /// still there, or of those that have said it in time.
    ///
    /// # Errors
    /// Where the catalog is away.
    pub async fn released(
        &mut self,
        fronts: &BTreeSet<Uuid>,
        deadline: Instant,
    ) -> Result<Vec<ReleasedHold>, Problem> {
        self.until(fronts, deadline, |watch, front| watch.released.contains_key(front)).await?;
        Ok(self.released.values().copied().collect())
    }

    /// Hears until something is so of each front that is still there; of which
    /// it is not at the deadline.
    async fn until(
        &mut self,
        fronts: &BTreeSet<Uuid>,
        deadline: Instant,
        is_so: impl Fn(&Self, &Uuid) -> bool,
    ) -> Result<Vec<Uuid>, Problem> {
        let mut missing: Vec<Uuid> = fronts.iter().copied().collect();
        let mut looks = interval(LOOK_AGAIN);
        looks.reset();
        loop {
            missing.retain(|front| !is_so(self, front));
            if missing.is_empty() {
                return Ok(missing);
            }
            let heard = async {
                tokio::select! {
                    biased;
                    notice = self.listener.next() => Some(notice),
                    _ = looks.tick() => None,
                }
            };
            match timeout_at(deadline, heard).await {
                Err(_) => return Ok(missing),
                Ok(Some(None)) => return Err(Problem::internal("the listening connection ended")),
                Ok(Some(Some(notice))) => self.hears(&notice.payload),
                Ok(None) => {
                    let live = self.live_fronts().await?;
                    missing.retain(|front| live.contains(front));
                }
            }
        }
    }

    fn hears(&mut self, said: &str) {
        match Said::parse(said) {
            Some(Said { hold, front, measured }) if hold == self.hold => match measured {
                None => drop(self.quiet.insert(front)),
                Some((longest_wait, clients)) => {
                    self.released.insert(front, ReleasedHold { front, longest_wait, clients });
                }
            },
            Some(_) => {}
            None => tracing::warn!(said, "something else is said where fronts speak of holds"),
        }
    }
}

/// What the sessions of fronts are called, those of all.
fn live_fronts() -> String {
    format!(
        "select application_name from pg_stat_activity
         where datname = current_database() and starts_with(application_name, '{FRONT_PREFIX}')"
    )
}

/// A message of a front.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Said {
    hold: Uuid,
    front: Uuid,
    /// The longest wait and the number of clients, where the hold is over.
    measured: Option<(Duration, u32)>,
}

impl Said {
    fn of(front: Uuid, report: HoldReport) -> Self {
        match report {
            HoldReport::Quiet { hold } => Self { hold, front, measured: None },
            HoldReport::Released { hold, longest_wait, clients } => {
                Self { hold, front, measured: Some((longest_wait, clients)) }
            }
        }
    }

    fn text(self) -> String {
        let Self { hold, front, measured } = self;
        match measured {
            None => format!("{hold} {front}"),
            Some((longest, clients)) => format!("released {hold} {front} {} {clients}", longest.as_micros()),
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let words: Vec<&str> = text.split(' ').collect();
        let (hold, front, measured) = match words[..] {
            [hold, front] => (hold, front, None),
            ["released", hold, front, longest, clients] => {
                (hold, front, Some((Duration::from_micros(longest.parse().ok()?), clients.parse().ok()?)))
            }
            _ => return None,
        };
        Some(Self { hold: hold.parse().ok()?, front: front.parse().ok()?, measured })
    }
}

/// Passes on what a front says of holds, until it is told to stop. With the
/// catalog away it is lost: who waits for it then tries again.
pub async fn report_holds(
    catalog: Catalog,
    front: Uuid,
    mut reports: mpsc::Receiver<HoldReport>,
    shutdown: CancellationToken,
) {
    let mut way = Way::open(catalog.connector()).await.ok();
    loop {
        let report = tokio::select! {
            () = shutdown.cancelled() => return,
            report = reports.recv() => report,
        };
        let Some(report) = report else { return };
        let text = Said::of(front, report).text();
        if let Some(way) = &way
            && way.say(&text).await.is_ok()
        {
            continue;
        }
        // It may have ended long ago.
        way = match say_anew(catalog.connector(), &text).await {
            Ok(way) => Some(way),
            Err(problem) => {
                tracing::warn!(cause = problem.chain(), "what is to be said of a hold does not get through");
                None
            }
        };
    }
}

async fn say_anew(connector: &Connector, text: &str) -> Result<Way, Problem> {
    let way = Way::open(connector).await?;
    way.say(text).await?;
    Ok(way)
}

/// A connection for reports.
struct Way {
    client: Client,
    notify: Statement,
}

impl Way {
    async fn open(connector: &Connector) -> Result<Self, Problem> {
        let client = connector.named("insula-holds").connect().await.map_err(Problem::internal)?;
        // Whoever is told is there or is not: nothing of it is for later.
        client.batch_execute("set synchronous_commit = off").await.map_err(db)?;
        let notify = client.prepare("select pg_notify($1, $2)").await.map_err(db)?;
        Ok(Self { client, notify })
    }

    async fn say(&self, text: &str) -> Result<(), Problem> {
        self.client.execute(&self.notify, &[&CHANNEL, &text]).await.map(drop).map_err(db)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_understood() {
        let (hold, front) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let longest_wait = Duration::from_micros(12_345);
        for report in [HoldReport::Quiet { hold }, HoldReport::Released { hold, longest_wait, clients: 7 }] {
            let said = Said::of(front, report);
            assert_eq!(Said::parse(&said.text()), Some(said));
        }
        for text in ["", "x", "a b", "released a b 1 2", "released", &format!("{hold} {front} 1")] {
            assert_eq!(Said::parse(text), None, "{text}");
        }
    }
}
