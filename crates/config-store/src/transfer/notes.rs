//! What is only ever added: the tokens under which something was done, and who
//! was shown which secret. How far they have come is kept with the home, in the
//! statement that puts them: each comes once, whoever copies it.

use insula_problem::Problem;
use time::OffsetDateTime;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::Transfer;

/// How many rows are copied together.
const PAGE: i64 = 2_000;

const UNTIL: &str = "select requests_until, reads_until from config_homes
    where scope = $1 and state = 'arriving' and epoch = $2";

const REQUESTS: &str = "select id, token, hash, key_generation, answer::text, at from config_requests
    where scope = $1 and id > $2 order by id limit $3";

const PUT_REQUESTS: &str = "with home as (
        update config_homes set requests_until = $4
        where scope = $1 and state = 'arriving' and epoch = $2 and requests_until = $3 returning 1
    )
    insert into config_requests (scope, token, hash, key_generation, answer, at)
    select $1, r.token, r.hash, r.key_generation, r.answer::jsonb, r.at
    from home, unnest($5::text[], $6::bytea[], $7::int[], $8::text[], $9::timestamptz[])
        as r (token, hash, key_generation, answer, at)
    on conflict (scope, token) do nothing";

/// The last note behind which all that is older is there: whoever makes one holds
/// the home until it is made.
const LAST_READ: &str = "with home as materialized (select 1 from config_homes where scope = $1 for update)
    select coalesce((select max(id) from config_reads where scope = $1), 0) from home";

const READS: &str = "select id, at, key, version, reader from config_reads
    where scope = $1 and id > $2 and id <= $3 order by id limit $4";

const PUT_READS: &str = "with home as (
        update config_homes set reads_until = $4
        where scope = $1 and state = 'arriving' and epoch = $2 and reads_until = $3 returning 1
    )
    insert into config_reads (at, scope, key, version, reader)
    select r.at, $1, r.key, r.version, r.reader
    from home, unnest($5::timestamptz[], $6::text[], $7::bigint[], $8::text[]) with ordinality
        as r (at, key, version, reader, place)
    order by r.place";

pub(super) fn column<'r, T: tokio_postgres::types::FromSql<'r>>(rows: &'r [Row], number: usize) -> Vec<T> {
    rows.iter().map(|row| row.get(number)).collect()
}

impl Transfer<'_> {
    /// How far they have come.
    async fn until(&self, number: usize) -> Result<i64, Problem> {
        let rows = self.to.chores.query(UNTIL, &[&self.scope, &self.epoch]).await?;
        rows.first().map(|row| row.get(number)).ok_or_else(Self::late)
    }

    pub(super) async fn bring_requests(&self) -> Result<(), Problem> {
        loop {
            let until = self.until(0).await?;
            let rows = self.from.chores.query(REQUESTS, &[&self.scope, &until, &PAGE]).await?;
            let Some(last) = rows.last().map(|row| row.get::<_, i64>(0)) else { return Ok(()) };
            let of: [&(dyn ToSql + Sync); 9] = [
                &self.scope,
                &self.epoch,
                &until,
                &last,
                &column::<&str>(&rows, 1),
                &column::<&[u8]>(&rows, 2),
                &column::<i32>(&rows, 3),
                &column::<&str>(&rows, 4),
                &column::<OffsetDateTime>(&rows, 5),
            ];
            // Where somebody else has put them, it goes on behind those.
            self.to.chores.query(PUT_REQUESTS, &of).await?;
        }
    }

    pub(super) async fn bring_reads(&self) -> Result<(), Problem> {
        let rows = self.from.chores.query(LAST_READ, &[&self.scope]).await?;
        let bound: i64 = rows.first().ok_or_else(Self::late)?.get(0);
        loop {
            let until = self.until(1).await?;
            let rows = self.from.chores.query(READS, &[&self.scope, &until, &bound, &PAGE]).await?;
            let Some(last) = rows.last().map(|row| row.get::<_, i64>(0)) else { return Ok(()) };
            let of: [&(dyn ToSql + Sync); 8] = [
                &self.scope,
                &self.epoch,
                &until,
                &last,
                &column::<OffsetDateTime>(&rows, 1),
                &column::<&str>(&rows, 2),
                &column::<i64>(&rows, 3),
                &column::<&str>(&rows, 4),
            ];
            self.to.chores.query(PUT_READS, &of).await?;
        }
    }
}
