//! Whose configuration is here: a tenant's is read and written in one store at
//! a time. The row that says so is changed under the clock's lock, under which
//! writes look at it.

use insula_config_model::{Revision, Scope};
use insula_domain::{Epoch, TenantId};
use insula_problem::{Code, Problem};
use time::OffsetDateTime;
use tokio_postgres::{Client, Error, Transaction};

use crate::ConfigStore;
use crate::rows;

/// Whoever locks a home and the clock locks the home first. What is not decided
/// under the clock (notes of who was shown a secret, large values) holds the home
/// meanwhile: behind this, all that has begun is there.
pub(crate) const FOR_UPDATE: &str = "select state, epoch from config_homes where scope = $1 for update";

const LEAVE: &str = "insert into config_homes as h (scope, state, since, at) values ($1, 'leaving', 0, now())
    on conflict (scope) do update set state = 'leaving', at = now()
    where $2 or h.state = 'leaving' or (h.state = 'arriving' and h.epoch <= $3)
        or (h.state = 'closed' and h.epoch <= $4)";

/// How much is removed at once.
const AT_ONCE: i64 = 1_000;

/// Removes a part of a table. It holds the home meanwhile, so that a tenant that
/// is awaited again loses nothing that has come since.
macro_rules! remove {
    ($table:literal) => {
        concat!(
            "with home as materialized (
                select 1 from config_homes where scope = $1 and state = 'leaving' for share
             ), gone as (
                delete from ",
            $table,
            " t using home where t.ctid = any(array(select p.ctid from ",
            $table,
            " p where p.scope = $1 limit $2)) returning 1
             )
             select count(*) from gone"
        )
    };
}

/// The chunks of large values go with those.
const REMOVE: [&str; 8] = [
    remove!("config_values"),
    remove!("config_labels"),
    remove!("config_versions"),
    remove!("config_blobs"),
    remove!("config_requests"),
    remove!("config_reads"),
    remove!("config_clients"),
    remove!("config_usage"),
];

/// Whether a tenant's configuration is here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HomeState {
    /// It is being copied to here.
    Arriving,
    /// It is here, to be read and written.
    Open,
    /// It was here and is elsewhere, or on its way.
    Closed,
}

/// What a store says of a tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Home {
    /// Whether its configuration is here.
    pub state: HomeState,
    /// Its first revision here: whoever goes on from an older one has it from
    /// another store, and takes a snapshot.
    pub since: Revision,
}

/// Why a tenant's configuration is neither read nor written for the moment.
pub(crate) fn moving() -> Problem {
    let detail = "The tenant's configuration is not here: it is being moved to another region.";
    Problem::new(Code::ConfigMoving, detail).retry_after(1)
}

/// Opens a new tenant's configuration in the tables behind the connection.
/// Where it has a row already, nothing is changed.
///
/// # Errors
/// Where a statement fails.
pub async fn open_home(client: &Client, tenant: TenantId, at: OffsetDateTime) -> Result<(), Error> {
    client
        .execute(
            "insert into config_homes (scope, state, since, at) values ($1, 'open', 0, $2)
             on conflict do nothing",
            &[&Scope::Tenant(tenant).to_string(), &at],
        )
        .await
        .map(drop)
}

/// Has a place for a tenant that is going to come: nothing of it is read or
/// written there before it has. Where it has a row already, nothing is changed.
///
/// # Errors
/// Where a statement fails.
pub async fn expect_home(client: &Client, tenant: TenantId, at: OffsetDateTime) -> Result<(), Error> {
    client
        .execute(
            "insert into config_homes (scope, state, since, at) values ($1, 'arriving', 0, $2)
             on conflict do nothing",
            &[&Scope::Tenant(tenant).to_string(), &at],
        )
        .await
        .map(drop)
}

/// Why what is kept of a tenant is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leaving {
    /// There is no such tenant any more.
    Gone,
    /// A move that was to bring it with this epoch was undone.
    Undone(Epoch),
    /// It has gone elsewhere, and was last here before this epoch, or awaited with it.
    Left(Epoch),
}

/// Begins to remove what is kept of a tenant, in the caller's transaction; from
/// its commit on nothing is written there. False, and nothing is changed, where
/// the tenant is at home there, or is again what it was when a later move came:
/// one that was suspended wakes, and its time is over.
///
/// # Errors
/// Where a statement fails.
pub async fn begin_leaving(
    transaction: &Transaction<'_>,
    tenant: TenantId,
    leaving: Leaving,
) -> Result<bool, Error> {
    let scope = Scope::Tenant(tenant).to_string();
    let (awaited, closed) = match leaving {
        Leaving::Gone => (i64::MAX, i64::MAX),
        // Closed with this epoch it is only where a later move has brought it.
        Leaving::Undone(epoch) => (epoch.0, epoch.0 - 1),
        Leaving::Left(epoch) => (epoch.0, epoch.0),
    };
    transaction.execute(FOR_UPDATE, &[&scope]).await?;
    let is_gone = leaving == Leaving::Gone;
    let is_left = transaction.execute(LEAVE, &[&scope, &is_gone, &awaited, &closed]).await? > 0;
    if is_left {
        // Whoever has begun to write before sees it through.
        transaction.query_one("select from config_clock for update", &[]).await?;
    }
    Ok(is_left)
}

/// Removes what is kept of a tenant that is leaving, in parts; again changes
/// nothing, and what is awaited again stays. The log keeps which keys have
/// changed when, without values, until it is compacted.
///
/// # Errors
/// Where a statement fails.
pub async fn remove_left(client: &Client, tenant: TenantId) -> Result<(), Error> {
    let scope = Scope::Tenant(tenant).to_string();
    for sql in REMOVE {
        while client.query_one(sql, &[&scope, &AT_ONCE]).await?.get::<_, i64>(0) > 0 {}
    }
    let sql = "delete from config_homes where scope = $1 and state = 'leaving'";
    client.execute(sql, &[&scope]).await.map(drop)
}

impl ConfigStore {
    /// What the store says of a tenant; none where it knows nothing of it.
    ///
    /// # Errors
    /// Where the store is away.
    pub async fn home(&self, tenant: TenantId) -> Result<Option<Home>, Problem> {
        let sql = "select state, since from config_homes where scope = $1";
        let rows = self.lines.query(sql, &[&Scope::Tenant(tenant).to_string()]).await?;
        Ok(rows.first().map(|row| Home { state: state(row.get(0)), since: row.get(1) }))
    }

    /// Every tenant that the store knows something of.
    ///
    /// # Errors
    /// Where the store is away.
    pub async fn homes(&self) -> Result<Vec<(TenantId, Home)>, Problem> {
        let rows = self.lines.query("select scope, state, since from config_homes", &[]).await?;
        let mut homes = Vec::new();
        for row in &rows {
            let home = Home { state: state(row.get(1)), since: row.get(2) };
            homes.extend(rows::scope(row.get(0))?.tenant().map(|tenant| (tenant, home)));
        }
        Ok(homes)
    }

    /// The tenants of whom something is kept without a home here: an orphan.
    ///
    /// # Errors
    /// Where the store is away.
    pub async fn strays(&self) -> Result<Vec<TenantId>, Problem> {
        let sql = "select s.scope from (
                select distinct scope from config_versions union select distinct scope from config_blobs
            ) as s
            where s.scope like 'tenant/%' and not exists (select from config_homes h where h.scope = s.scope)";
        let rows = self.lines.query(sql, &[]).await?;
        let scopes = rows.iter().map(|row| rows::scope(row.get(0)));
        scopes.filter_map(|scope| scope.map(|scope| scope.tenant()).transpose()).collect()
    }
}

fn state(text: &str) -> HomeState {
    match text {
        "open" => HomeState::Open,
        "arriving" => HomeState::Arriving,
        _ => HomeState::Closed,
    }
}
