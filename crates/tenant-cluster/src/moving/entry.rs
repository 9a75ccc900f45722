//! The entry of a tenant to one of its placements: PostgreSQL itself lets its
//! roles in, or does not. Other placements on the same server are left alone.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::future::{try_join, try_join3};
use insula_domain::{Isolation, Placement, RoleName, TenantId};
use insula_problem::Problem;
use tokio::time::{Instant, sleep};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Statement};

use super::{Place, Seat};
use crate::access::MAINTENANCE;
use crate::roles::{TENANTS, TenantRoles, create_group, search_path};
use crate::schema::{POOL_READ_ONLY, POOL_READ_WRITE};
use crate::spaces::database_exists;
use crate::{db, literal};

/// How long sessions are given to end.
const LIMIT: Duration = Duration::from_secs(10);

/// For how long it is looked again after the shortest pause.
const BRIEFLY: Duration = Duration::from_millis(30);

/// The pauses from one look to the next: the first, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(20));

/// Lets the tenant's roles into the placement, as a new tenant's would be.
///
/// # Errors
/// Where the cluster is away, or the seat has been taken.
pub async fn open(seat: &Seat, place: &Place) -> Result<(), Problem> {
    let [read_write, read_only] = roles(seat, place)?;
    let database = &place.placement.database;
    let grant = match place.placement.isolation {
        Isolation::Pool => {
            format!("grant {POOL_READ_WRITE} to {read_write}; grant {POOL_READ_ONLY} to {read_only}")
        }
        Isolation::Schema => format!("grant connect on database {database} to {read_write}, {read_only}"),
        Isolation::Database | Isolation::Cluster => {
            format!("grant connect, temporary on database {database} to {read_write}, {read_only}")
        }
    };
    change(seat, place, &grant).await
}

/// Keeps the tenant's roles out of the placement and ends the sessions that
/// they have there; how many those were. After it returns, nobody of the tenant
/// does anything there, and what its sessions had not committed is rolled back;
/// those that were idle may take some milliseconds more to be gone.
///
/// # Errors
/// Where the cluster is away, the seat has been taken, a session does not end
/// within 10 s, something else lets the tenant in, or a prepared transaction of
/// its is left. The entry is then to be taken for open.
pub async fn close(seat: &Seat, place: &Place) -> Result<usize, Problem> {
    let [read_write, read_only] = roles(seat, place)?;
    let database = &place.placement.database;
    let revoke = match place.placement.isolation {
        Isolation::Pool => {
            format!("revoke {POOL_READ_WRITE}, {POOL_READ_ONLY} from {read_write}, {read_only}")
        }
        Isolation::Schema | Isolation::Database | Isolation::Cluster => {
            format!("revoke connect, temporary on database {database} from {read_write}, {read_only}")
        }
    };
    let leaving = seat.leaving().await?;
    let (database, names) = (database.as_str(), names(place.tenant));
    // The tenant waits meanwhile: both looks are sent along with the change, each sees what came before it, and most
    // often nobody is at work.
    let look = || leaving.look(seat, database, &names);
    let (_, first, second) = try_join3(change(seat, place, &revoke), look(), look()).await?;
    leaving.wait(seat, (database, &names), [first, second]).await
}

/// Whether one of the tenant's roles may connect to the placement's database.
///
/// # Errors
/// Where the cluster is away.
pub async fn is_open(maintenance: &Client, place: &Place) -> Result<bool, Problem> {
    let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 2] =
        [&place.placement.database.as_str(), &names(place.tenant)];
    Ok(maintenance.query_one(LEFT, &parameters).await.map_err(db)?.get(0))
}

/// How many sessions of the tenant's roles the placement has.
///
/// # Errors
/// Where the cluster is away.
pub async fn sessions_at(maintenance: &Client, place: &Place) -> Result<u32, Problem> {
    let parameters: [&(dyn ToSql + Sync); 2] = [&place.placement.database.as_str(), &names(place.tenant)];
    let query =
        "select count(*) from pg_stat_activity where datname = $1 and usename = any($2::text[]::name[])";
    let count: i64 = maintenance.query_one(query, &parameters).await.map_err(db)?.get(0);
    Ok(u32::try_from(count).unwrap_or(u32::MAX))
}

/// Makes the tenant's roles on the server of a placement to be, or brings those
/// that are there to the password and the right to log in that they are to have.
/// They get no entry, and what is set for them elsewhere stays.
///
/// # Errors
/// Where the cluster is away.
pub async fn admit_roles(
    maintenance: &Client,
    roles: &TenantRoles,
    placement: &Placement,
    login: bool,
) -> Result<(), Problem> {
    create_group(maintenance).await?;
    let login = if login { "login" } else { "nologin" };
    // A database of the tenant's own may come after its roles.
    let is_there = database_exists(maintenance, &placement.database).await?;
    let mut statements = String::from("begin;\n");
    for role in [&roles.read_write, &roles.read_only] {
        let name = &role.name;
        let there =
            maintenance.query_opt("select 1 from pg_roles where rolname = $1", &[&name.as_str()]).await;
        let verb = if there.map_err(db)?.is_some() { "alter" } else { "create" };
        statements.push_str(&format!(
            "{verb} role {name} {login} nosuperuser nocreatedb nocreaterole noreplication nobypassrls inherit \
             password {};\n",
            literal(&role.verifier)
        ));
        // A stay of long ago may have left something there.
        if is_there {
            statements
                .push_str(&format!("alter role {name} in database {} reset all;\n", placement.database));
        }
        if placement.isolation == Isolation::Schema {
            statements.push_str(&format!(
                "alter role {name} in database {} set search_path = {};\n",
                placement.database,
                search_path(placement.isolation, &placement.schema, None)
            ));
        }
        statements.push_str(&format!("grant {TENANTS} to {name};\n"));
    }
    statements.push_str("commit;");
    maintenance.batch_execute(&statements).await.map_err(db)
}

/// Changes rights in a transaction. Those on a shared database are kept in one
/// row, which two at once cannot change: the lock is that of `create_roles`.
async fn change(seat: &Seat, place: &Place, statement: &str) -> Result<(), Problem> {
    let lock = match place.placement.isolation {
        Isolation::Schema => crate::roles::LOCK,
        _ => "select",
    };
    seat.batch_execute(&format!("begin; {lock}; {statement}; commit")).await.map_err(db)
}

/// The questions by which a placement is emptied, prepared on a seat.
#[derive(Debug)]
pub(super) struct Leaving {
    end: Statement,
    left: Statement,
}

/// What a look at a closed placement has found, and told to end.
#[derive(Debug)]
struct Look {
    /// The sessions that are in there.
    inside: BTreeSet<String>,
    /// Those of them that do nothing, and have no transaction open.
    idle: BTreeSet<String>,
    /// Who is being let in.
    coming: BTreeSet<String>,
    /// Whether there is no other way in, and nothing is left that can be committed.
    closed: Result<(), Problem>,
}

impl Leaving {
    /// They are planned when they are asked for the first time: here, of nobody.
    pub(super) async fn prepare(seat: &Seat) -> Result<Self, Problem> {
        let (end, left) = try_join(seat.prepare(END), seat.prepare(LEFT)).await.map_err(db)?;
        let leaving = Self { end, left };
        leaving.look(seat, MAINTENANCE, &[]).await?;
        Ok(leaving)
    }

    /// Tells sessions to end, and then looks whether there is another way in.
    async fn look(&self, seat: &Seat, database: &str, names: &[String]) -> Result<Look, Problem> {
        let parameters: [&(dyn ToSql + Sync); 2] = [&database, &names];
        let (end, left) =
            try_join(seat.query_one(&self.end, &parameters), seat.query_one(&self.left, &parameters))
                .await
                .map_err(db)?;
        let sessions = |column: usize| end.get::<_, Vec<String>>(column).into_iter().collect();
        Ok(Look {
            inside: sessions(0),
            idle: sessions(1),
            coming: sessions(2),
            closed: is_closed(left.get(0), left.get(1)),
        })
    }

    /// Looks until no session can do anything, those among them that were being
    /// let in at the first look: who comes later finds that the right is gone.
    ///
    /// A session that was told to end and is idle after that carries out nothing
    /// more: PostgreSQL looks for such a word between reading a command and
    /// beginning with it (`PostgresMain` in `src/backend/tcop/postgres.c`). It
    /// is gone when its memory is taken down, which takes milliseconds for each.
    async fn wait(
        &self,
        seat: &Seat,
        (database, names): (&str, &[String]),
        [first, mut last]: [Look; 2],
    ) -> Result<usize, Problem> {
        let (mut told, mut waited_for) = (first.inside, first.coming);
        let begun = Instant::now();
        let (until, mut pause) = (begun + LIMIT, PAUSES.0);
        loop {
            waited_for.retain(|session| last.coming.contains(session));
            let is_harmless = |session: &&String| told.contains(*session) && last.idle.contains(*session);
            let at_work = last.inside.iter().filter(|session| !is_harmless(session)).count();
            let left = at_work + waited_for.len();
            told.extend(last.inside);
            if left == 0 {
                return last.closed.map(|()| told.len());
            }
            if Instant::now() > until {
                return Err(Problem::internal(format!("{left} sessions in a closed placement did not end")));
            }
            sleep(pause).await;
            // Idle sessions end within milliseconds, and clients wait meanwhile.
            if begun.elapsed() > BRIEFLY {
                pause = PAUSES.1.min(pause * 2);
            }
            last = self.look(seat, database, names).await?;
        }
    }
}

fn is_closed(is_open: bool, has_prepared: bool) -> Result<(), Problem> {
    if is_open {
        return Err(Problem::internal("a tenant gets into a placement that was closed to it"));
    }
    if has_prepared {
        return Err(Problem::internal("a tenant has a prepared transaction in a placement that was closed"));
    }
    Ok(())
}

/// Signals the sessions that the roles (`$2`) have in a database (`$1`), and
/// tells which they are and who is being let in there. A session that is, holds
/// a lock on the database from before it looks at the right to connect, and is
/// listed before it lets go of it (`InitPostgres` in
/// `src/backend/utils/init/postinit.c`); from version 18 on as `starting`. So
/// the locks are looked at first: looked at last, they miss who was let in
/// between the two looks. That the sessions are looked at after them, the null
/// makes sure that is computed from the locks: it has the function list all.
const END: &str = "
with locks as materialized (
    select coalesce(array_agg(l.pid), '{}') as pids,
           coalesce(array_agg(l.pid || ' ' || l.virtualtransaction), '{}') as names
    from pg_locks l join pg_database d on d.oid = l.objid and d.datname = $1
    where l.locktype = 'object' and l.classid = 'pg_database'::regclass and l.pid is not null
), sessions as materialized (
    select a.pid, a.datid, a.usesysid, a.state, a.pid || ' ' || a.backend_start as name
    from locks cross join lateral pg_stat_get_activity(nullif(cardinality(locks.pids), cardinality(locks.pids))) a
), inside as materialized (
    select s.name, s.state, pg_terminate_backend(s.pid)
    from sessions s join pg_database d on d.oid = s.datid and d.datname = $1
    join pg_roles r on r.oid = s.usesysid and r.rolname = any($2::text[]::name[])
), coming as (
    select l.name
    from locks cross join lateral unnest(locks.pids, locks.names) as l (pid, name)
    where not exists (select from sessions s where s.pid = l.pid and s.state is distinct from 'starting')
)
select (select coalesce(array_agg(name), '{}') from inside),
       (select coalesce(array_agg(name) filter (where state = 'idle'), '{}') from inside),
       (select coalesce(array_agg(name), '{}') from coming)";

/// Whether a role (`$2`) may connect to a database (`$1`), and whether one has a
/// prepared transaction there.
const LEFT: &str = "
select exists (select from pg_roles r join pg_database d on d.datname = $1
               where r.rolname = any($2::text[]::name[]) and has_database_privilege(r.oid, d.oid, 'connect')),
       exists (select from pg_prepared_xacts where database = $1 and owner = any($2::text[]::name[]))";

/// The tenant's roles; the seat must be of its move.
fn roles(seat: &Seat, place: &Place) -> Result<[RoleName; 2], Problem> {
    if seat.tenant() != place.tenant {
        return Err(Problem::internal("a move works from the seat of another tenant's"));
    }
    Ok([RoleName::of_tenant(place.tenant), RoleName::read_only_of_tenant(place.tenant)])
}

fn names(tenant: TenantId) -> Vec<String> {
    [RoleName::of_tenant(tenant), RoleName::read_only_of_tenant(tenant)].map(|name| name.to_string()).into()
}
