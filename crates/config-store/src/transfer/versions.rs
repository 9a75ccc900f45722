//! Versions, which never change but for the key that seals a secret: pages of
//! both stores side by side, and what one has and the other has not.

use std::collections::BTreeMap;

use insula_config_model::Version;
use insula_problem::Problem;
use time::OffsetDateTime;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::{Transfer, awaited};
use crate::rows;
use crate::secrets::place_text;

/// How many versions of both stores are compared together.
const COMPARED: i64 = 5_000;
/// How many bytes of versions are copied together, and how many of them.
const PAGE_BYTES: i64 = 4 << 20;
const PAGE_VERSIONS: usize = 500;

const IDS: &str = "select key, version, coalesce(octet_length(value), 0)::bigint, coalesce(key_generation, 0)
    from config_versions where scope = $1 and (key, version) > ($2, $3) order by key, version limit $4";

/// Each is looked up by itself, here and below: a join would be planned for as
/// few as a scope had when the plan was made.
const VERSIONS: &str = "select v.* from unnest($2::text[], $3::bigint[]) as k (key, version), lateral (
        select v.key, v.version, v.revision, v.kind, v.value, v.key_generation, v.author, v.at, v.note
        from config_versions v where v.scope = $1 and v.key = k.key and v.version = k.version limit 1) as v";

const PUT: &str = concat!(
    "with ",
    awaited!(),
    ", put as (
        insert into config_versions
            (scope, key, version, revision, kind, value, key_generation, author, at, note)
        select $1, n.* from home, unnest($3::text[], $4::bigint[], $5::bigint[], $6::smallint[], $7::bytea[],
            $8::int[], $9::text[], $10::timestamptz[], $11::text[]) as n
        on conflict (scope, key, version) do update
        set value = excluded.value, key_generation = excluded.key_generation
        where config_versions.key_generation < excluded.key_generation
    )
    select from home"
);

const DROP: &str = concat!(
    "with ",
    awaited!(),
    ", gone as (
        delete from config_versions t using home where t.ctid = any(array(
            select v.ctid from unnest($3::text[], $4::bigint[]) as k (key, version), lateral (
                select o.ctid from config_versions o
                where o.scope = $1 and o.key = k.key and o.version = k.version limit 1) as v))
    )
    select from home"
);

type Id = (String, Version);

/// A version, as far as it is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Known {
    bytes: i64,
    /// With which generation of the master key it is sealed; 0 where it is not.
    generation: i32,
}

/// What is to be done up to an id, or to the end.
#[derive(Debug, PartialEq, Eq)]
struct Difference {
    missing: Vec<(Id, i64)>,
    surplus: Vec<Id>,
    until: Option<Id>,
}

/// Compares two pages behind the same id. A page that is full says nothing of
/// what is behind its last one.
fn difference(from: &BTreeMap<Id, Known>, to: &BTreeMap<Id, Known>, full: usize) -> Difference {
    let last = |page: &BTreeMap<Id, Known>| page.keys().next_back().filter(|_| page.len() >= full).cloned();
    let until = [last(from), last(to)].into_iter().flatten().min();
    let counts = |id: &Id| until.as_ref().is_none_or(|until| id <= until);
    // One that is sealed with an older key there is not missed here.
    let is_there =
        |id: &Id, known: &Known| to.get(id).is_some_and(|there| there.generation >= known.generation);
    let missing = from.iter().filter(|(id, known)| counts(id) && !is_there(id, known));
    let surplus = to.keys().filter(|id| counts(id) && !from.contains_key(*id));
    Difference {
        missing: missing.map(|(id, known)| (id.clone(), known.bytes)).collect(),
        surplus: surplus.cloned().collect(),
        until,
    }
}

/// Parts that are not too large, the last of each apart.
fn pages(ids: Vec<(Id, i64)>) -> Vec<Vec<Id>> {
    let (mut pages, mut page, mut size) = (Vec::new(), Vec::new(), 0);
    for (id, bytes) in ids {
        if !page.is_empty() && (size + bytes > PAGE_BYTES || page.len() >= PAGE_VERSIONS) {
            pages.push(std::mem::take(&mut page));
            size = 0;
        }
        size += bytes;
        page.push(id);
    }
    if !page.is_empty() {
        pages.push(page);
    }
    pages
}

fn known(rows: &[Row]) -> BTreeMap<Id, Known> {
    let known = |row: &Row| Known { bytes: row.get(2), generation: row.get(3) };
    rows.iter().map(|row| ((row.get(0), row.get(1)), known(row))).collect()
}

fn unzipped(ids: &[Id]) -> (Vec<&str>, Vec<Version>) {
    ids.iter().map(|(key, version)| (key.as_str(), *version)).unzip()
}

impl Transfer<'_> {
    /// Makes the versions the same as they are there. What is there no more is
    /// only dropped when it is closed there: somebody else who copies may be ahead.
    pub(super) async fn bring_versions(&self, is_closed: bool) -> Result<(), Problem> {
        let (mut after, full) = ((String::new(), 0), COMPARED as usize);
        loop {
            let of: [&(dyn ToSql + Sync); 4] = [&self.scope, &after.0, &after.1, &COMPARED];
            let from = known(&self.from.chores.query(IDS, &of).await?);
            let to = known(&self.to.chores.query(IDS, &of).await?);
            let Difference { missing, surplus, until } = difference(&from, &to, full);
            for page in surplus.chunks(PAGE_VERSIONS).filter(|_| is_closed) {
                let (keys, versions) = unzipped(page);
                self.put(DROP, &[&self.scope, &self.epoch, &keys, &versions]).await?;
            }
            for page in pages(missing) {
                let (keys, versions) = unzipped(&page);
                let rows = self.from.chores.query(VERSIONS, &[&self.scope, &keys, &versions]).await?;
                self.put_versions(&rows).await?;
            }
            let Some(until) = until else { return Ok(()) };
            after = until;
        }
    }

    /// Secrets are sealed with the newest key that is known here: the store from
    /// which they come may not have been looked through yet, and this one has.
    fn sealed(&self, row: &Row) -> Result<(Option<Vec<u8>>, Option<i32>), Problem> {
        let (value, generation): (Option<Vec<u8>>, Option<i32>) = (row.get(4), row.get(5));
        let (Some(old), Some(generation)) = (&value, generation) else { return Ok((value, generation)) };
        let ambient = &self.to.ambient;
        let place = place_text(&rows::scope(&self.scope)?, &rows::key(row.get(0))?, row.get(1));
        match ambient.keys.reseal_envelope(&place, old, ambient.entropy.as_ref()) {
            Ok(None) => Ok((value, Some(generation))),
            Ok(Some(anew)) => {
                let generation = ambient.keys.current_generation();
                Ok((Some(anew), Some(i32::try_from(generation).map_err(Problem::internal)?)))
            }
            Err(error) => {
                tracing::error!(%error, scope = self.scope, "a kept secret does not open");
                Ok((value, Some(generation)))
            }
        }
    }

    async fn put_versions(&self, rows: &[Row]) -> Result<(), Problem> {
        fn column<'r, T: tokio_postgres::types::FromSql<'r>>(rows: &'r [Row], number: usize) -> Vec<T> {
            rows.iter().map(|row| row.get(number)).collect()
        }
        let sealed: Vec<(Option<Vec<u8>>, Option<i32>)> =
            rows.iter().map(|row| self.sealed(row)).collect::<Result<_, _>>()?;
        let (values, generations): (Vec<Option<Vec<u8>>>, Vec<Option<i32>>) = sealed.into_iter().unzip();
        let of: [&(dyn ToSql + Sync); 11] = [
            &self.scope,
            &self.epoch,
            &column::<&str>(rows, 0),
            &column::<i64>(rows, 1),
            &column::<i64>(rows, 2),
            &column::<i16>(rows, 3),
            &values,
            &generations,
            &column::<&str>(rows, 6),
            &column::<OffsetDateTime>(rows, 7),
            &column::<&str>(rows, 8),
        ];
        self.put(PUT, &of).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(ids: &[(&str, Version, i32)]) -> BTreeMap<Id, Known> {
        let known = |generation| Known { bytes: 1, generation };
        ids.iter().map(|(key, version, sealed)| (((*key).to_owned(), *version), known(*sealed))).collect()
    }

    fn id(key: &str, version: Version) -> Id {
        (key.to_owned(), version)
    }

    #[test]
    fn what_is_behind_a_full_page_is_not_judged() {
        let (from, to) = (page(&[("a", 1, 0), ("c", 1, 0)]), page(&[("a", 1, 0), ("b", 1, 0)]));
        let found = difference(&from, &to, 2);
        assert_eq!((found.missing, found.surplus), (vec![], vec![id("b", 1)]));
        assert_eq!(found.until, Some(id("b", 1)));
        let found = difference(&from, &to, 3);
        assert_eq!((found.missing, found.surplus), (vec![(id("c", 1), 1)], vec![id("b", 1)]));
        assert_eq!(found.until, None);
        assert_eq!(difference(&page(&[]), &to, 2).surplus, [id("a", 1), id("b", 1)]);
    }

    #[test]
    fn one_that_is_sealed_with_a_newer_key_is_copied_again_and_not_the_other_way() {
        let (old, new) = (page(&[("s", 1, 1)]), page(&[("s", 1, 2)]));
        assert_eq!(difference(&new, &old, 9).missing, [(id("s", 1), 1)]);
        assert_eq!(difference(&old, &new, 9).missing, []);
    }

    #[test]
    fn pages_are_bounded_and_have_everything_once() {
        let ids =
            |sizes: &[i64]| sizes.iter().enumerate().map(|(n, size)| (id("k", n as i64), *size)).collect();
        let lens = |sizes: &[i64]| pages(ids(sizes)).iter().map(Vec::len).collect::<Vec<_>>();
        assert_eq!(lens(&[]), Vec::<usize>::new());
        assert_eq!(lens(&[PAGE_BYTES + 1, 1, PAGE_BYTES - 1, 1]), [1, 2, 1]);
        assert_eq!(lens(&[0; 501]), [500, 1]);
    }
}
