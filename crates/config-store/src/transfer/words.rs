//! With which versions the tenant's clients run. What they say in the last moments
//! before the tenant is closed here is left: those who are connected say it again
//! where it is opened, and the word that is newer stays.

use insula_config_model::{Revision, Version};
use insula_problem::Problem;
use time::OffsetDateTime;
use tokio_postgres::types::ToSql;

use super::notes::column;
use super::{Transfer, awaited};

/// How many clients are copied together, each with its keys.
const PAGE: i64 = 50;

const CLIENTS: &str = "select client_id, revision, at from config_clients
    where scope = $1 and client_id > $2 order by client_id limit $3";

const RUNS: &str = "select client_id, key, set_in, version, rejection, at from config_client_runs
    where scope = $1 and client_id > $2 and client_id <= $3";

const PUT: &str = concat!(
    "with ",
    awaited!(),
    ", clients as (
        insert into config_clients as c (scope, client_id, revision, at)
        select $1, n.* from home, unnest($3::text[], $4::bigint[], $5::timestamptz[]) as n
        on conflict (scope, client_id) do update
            set revision = greatest(c.revision, excluded.revision), at = greatest(c.at, excluded.at)
    ), runs as (
        insert into config_client_runs as r (scope, client_id, key, set_in, version, rejection, at)
        select $1, n.* from home, unnest($6::text[], $7::text[], $8::text[], $9::bigint[], $10::text[],
            $11::timestamptz[]) as n (client_id, key, set_in, version, rejection, at)
        where n.client_id = any($3)
        on conflict (scope, client_id, key) do update
            set set_in = excluded.set_in, version = excluded.version, rejection = excluded.rejection,
                at = excluded.at
            where r.at < excluded.at
    )
    select from home"
);

impl Transfer<'_> {
    pub(super) async fn bring_words(&self) -> Result<(), Problem> {
        let mut after = String::new();
        loop {
            let clients = self.from.chores.query(CLIENTS, &[&self.scope, &after, &PAGE]).await?;
            let Some(last) = clients.last().map(|row| row.get::<_, String>(0)) else { return Ok(()) };
            let runs = self.from.chores.query(RUNS, &[&self.scope, &after, &last]).await?;
            let of: [&(dyn ToSql + Sync); 11] = [
                &self.scope,
                &self.epoch,
                &column::<&str>(&clients, 0),
                &column::<Revision>(&clients, 1),
                &column::<OffsetDateTime>(&clients, 2),
                &column::<&str>(&runs, 0),
                &column::<&str>(&runs, 1),
                &column::<&str>(&runs, 2),
                &column::<Version>(&runs, 3),
                &column::<Option<&str>>(&runs, 4),
                &column::<OffsetDateTime>(&runs, 5),
            ];
            self.put(PUT, &of).await?;
            after = last;
        }
    }
}
