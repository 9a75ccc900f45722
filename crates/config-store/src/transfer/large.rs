//! Large values, in parts. Those to which no version refers any more may come
//! along, and go as everywhere.

use std::collections::BTreeSet;

use insula_problem::Problem;
use tokio_postgres::types::ToSql;

use super::{Transfer, awaited};

/// How many are compared together.
const PAGE: i64 = 500;

const IDS: &str = "select sha256, bytes from config_blobs
    where scope = $1 and sha256 > $2 order by sha256 limit $3";

/// An interrupted copy has left a part.
const WHOLE: &str =
    "select b.sha256 from config_blobs b where b.scope = $1 and b.sha256 = any($2) and b.bytes = (
        select coalesce(sum(octet_length(c.bytes)), 0) from config_blob_chunks c
        where c.scope = b.scope and c.sha256 = b.sha256)";

const CHUNKS: &str =
    "select number, bytes from config_blob_chunks where scope = $1 and sha256 = $2 and number between $3 and $3 + 15
     order by number";

const PUT: &str = concat!(
    "with ",
    awaited!(),
    ", put as (
        insert into config_blobs (scope, sha256, bytes, at) select $1, $3, $4, $5 from home
        on conflict (scope, sha256) do update set at = excluded.at
    )
    select from home"
);

const PUT_CHUNKS: &str = concat!(
    "with ",
    awaited!(),
    ", put as (
        insert into config_blob_chunks (scope, sha256, number, bytes)
        select $1, $3, n.* from home, unnest($4::int[], $5::bytea[]) as n on conflict do nothing
    )
    select from home"
);

impl Transfer<'_> {
    pub(super) async fn bring_large(&self) -> Result<(), Problem> {
        let mut after = String::new();
        loop {
            let rows = self.from.chores.query(IDS, &[&self.scope, &after, &PAGE]).await?;
            let ids: Vec<&str> = rows.iter().map(|row| row.get(0)).collect();
            let whole = self.to.chores.query(WHOLE, &[&self.scope, &ids]).await?;
            let whole: BTreeSet<&str> = whole.iter().map(|row| row.get(0)).collect();
            for row in rows.iter().filter(|row| !whole.contains(row.get::<_, &str>(0))) {
                self.bring_one(row.get(0), row.get(1)).await?;
            }
            match ids.last() {
                Some(last) if rows.len() as i64 >= PAGE => after = (*last).to_owned(),
                _ => return Ok(()),
            }
        }
    }

    async fn bring_one(&self, sha256: &str, bytes: i64) -> Result<(), Problem> {
        let (scope, epoch, at) = (&self.scope, &self.epoch, self.to.ambient.clock.now());
        self.put(PUT, &[scope, epoch, &sha256, &bytes, &at]).await?;
        let mut first = 0;
        loop {
            let rows = self.from.chores.query(CHUNKS, &[scope, &sha256, &first]).await?;
            let Some(last) = rows.last() else { return Ok(()) };
            first = last.get::<_, i32>(0) + 1;
            let numbers: Vec<i32> = rows.iter().map(|row| row.get(0)).collect();
            let chunks: Vec<&[u8]> = rows.iter().map(|row| row.get(1)).collect();
            let of: [&(dyn ToSql + Sync); 5] = [scope, epoch, &sha256, &numbers, &chunks];
            self.put(PUT_CHUNKS, &of).await?;
        }
    }
}
