//! Which version of each key is the newest, and which have labels: what changes,
//! and is copied when it does so no more. Whatever is put, by whomever, is what
//! was read there after it was closed.

use insula_config_model::Version;
use insula_problem::Problem;

use super::{Transfer, awaited};

/// How many rows are copied together.
const PAGE: i64 = 500;

const VALUES: &str = "select key, version, history from config_values
    where scope = $1 and key > $2 order by key limit $3";

/// Everything behind `$3` up to `$4`, which is none on the last page.
const PUT_VALUES: &str = concat!(
    "with ",
    awaited!(),
    ", gone as (
        delete from config_values v using home
        where v.scope = $1 and v.key > $3 and ($4::text is null or v.key <= $4) and v.key <> all($5::text[])
    ), put as (
        insert into config_values (scope, key, version, history)
        select $1, n.* from home, unnest($5::text[], $6::bigint[], $7::int[]) as n
        on conflict (scope, key) do update set version = excluded.version, history = excluded.history
    )
    select from home"
);

const LABELS: &str = "select key, label, version from config_labels
    where scope = $1 and (key, label) > ($2, $3) order by key, label limit $4";

const PUT_LABELS: &str = concat!(
    "with ",
    awaited!(),
    ", new as (
        select * from unnest($7::text[], $8::text[], $9::bigint[]) as n (key, label, version)
    ), gone as (
        delete from config_labels l using home
        where l.scope = $1 and (l.key, l.label) > ($3, $4)
            and ($5::text is null or (l.key, l.label) <= ($5, $6::text))
            and not exists (select from new n where n.key = l.key and n.label = l.label)
    ), put as (
        insert into config_labels (scope, key, label, version)
        select $1, n.* from home, new n
        on conflict (scope, key, label) do update set version = excluded.version
    )
    select from home"
);

impl Transfer<'_> {
    pub(super) async fn bring_values(&self) -> Result<(), Problem> {
        let mut after = String::new();
        loop {
            let rows = self.from.chores.query(VALUES, &[&self.scope, &after, &PAGE]).await?;
            let keys: Vec<&str> = rows.iter().map(|row| row.get(0)).collect();
            let versions: Vec<Version> = rows.iter().map(|row| row.get(1)).collect();
            let histories: Vec<i32> = rows.iter().map(|row| row.get(2)).collect();
            let is_last = (rows.len() as i64) < PAGE;
            let last = keys.last().filter(|_| !is_last).copied();
            self.put(PUT_VALUES, &[&self.scope, &self.epoch, &after, &last, &keys, &versions, &histories])
                .await?;
            let Some(last) = last else { return Ok(()) };
            after = last.to_owned();
        }
    }

    pub(super) async fn bring_labels(&self) -> Result<(), Problem> {
        let mut after = (String::new(), String::new());
        loop {
            let rows = self.from.chores.query(LABELS, &[&self.scope, &after.0, &after.1, &PAGE]).await?;
            let keys: Vec<&str> = rows.iter().map(|row| row.get(0)).collect();
            let labels: Vec<&str> = rows.iter().map(|row| row.get(1)).collect();
            let versions: Vec<Version> = rows.iter().map(|row| row.get(2)).collect();
            let is_last = (rows.len() as i64) < PAGE;
            let last = rows.last().filter(|_| !is_last).map(|row| (row.get(0), row.get(1)));
            let (key, label): (Option<&str>, Option<&str>) = last.unzip();
            let (scope, epoch) = (&self.scope, &self.epoch);
            self.put(
                PUT_LABELS,
                &[scope, epoch, &after.0, &after.1, &key, &label, &keys, &labels, &versions],
            )
            .await?;
            let Some((key, label)) = last else { return Ok(()) };
            after = (key.to_owned(), label.to_owned());
        }
    }
}
