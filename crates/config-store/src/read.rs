//! Reading. Each question is one statement, and so sees one moment, whose
//! revision is in the answer.

use insula_config_model::{
    ConfigKey, KeyPrefix, LABEL_CURRENT, LABEL_PREVIOUS, Layer, Revision, Scope, Stored, Version,
};
use insula_problem::{Code, Problem};
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use crate::ConfigStore;
use crate::rows::{self, layer_columns, layer_joins, version_bytes, version_columns};
use crate::text::{Range, range_after, ranges};

/// The clock of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clocks {
    /// The newest change.
    pub revision: Revision,
    /// The log is whole behind this one.
    pub compacted: Revision,
    /// The change of the catalog up to which the provider's values are here.
    pub imported: Revision,
}

/// What several scopes say of a key.
#[derive(Debug, Clone, PartialEq)]
pub struct Layers {
    /// Up to which change this is true.
    pub revision: Revision,
    /// Every scope that was asked for, in the order in which it was; a removal
    /// is a version without a value.
    pub layers: Vec<Layer>,
}

/// What several scopes have under one key.
#[derive(Debug, Clone, PartialEq)]
pub struct KeyLayers {
    /// The key.
    pub key: ConfigKey,
    /// The newest versions, in the order in which the scopes were asked for;
    /// of a scope that has none, nothing. Removals are among them.
    pub layers: Vec<Layer>,
}

/// A page of keys in their order.
#[derive(Debug, Clone, PartialEq)]
pub struct ListPage {
    /// Up to which change this is true.
    pub revision: Revision,
    /// The keys.
    pub keys: Vec<KeyLayers>,
    /// Behind which key the next page begins; none where this is the last.
    pub next: Option<ConfigKey>,
}

/// A page of versions of a key, the newest first.
#[derive(Debug, Clone, PartialEq)]
pub struct HistoryPage {
    /// The versions.
    pub versions: Vec<Stored>,
    /// Before which version the next page begins; none where this is the last.
    pub next: Option<Version>,
}

/// All that several scopes have under prefixes.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    /// Up to which change this is true.
    pub revision: Revision,
    /// The newest versions that are no removals, by key, and under one key in
    /// the order in which the scopes were asked for. Secrets as they are kept.
    pub entries: Vec<Stored>,
}

/// Every row begins with the revision and with the asked scopes of tenants that
/// are not to be read here. Then comes what was asked for, or nulls.
macro_rules! framed {
    ($($body:tt)*) => {
        concat!(
            "select f.revision, f.elsewhere, r.* from (
                select c.revision, array(
                    select a.scope from unnest($1::text[]) as a (scope)
                    where a.scope like 'tenant/%' and not exists (
                        select from config_homes h where h.scope = a.scope and h.state = 'open')
                ) as elsewhere from config_clock c
             ) as f left join lateral (", $($body)*, ") as r on true"
        )
    };
}

const NEWEST: &str = framed!(
    "select ",
    layer_columns!(),
    " from unnest($1::text[]) with ordinality as s (scope, place)
      join config_values n on n.scope = s.scope and n.key = $2
      join config_versions v on v.scope = n.scope and v.key = n.key and v.version = n.version",
    layer_joins!(),
    "order by s.place"
);

const VERSION: &str = framed!(
    "select ",
    version_columns!(),
    " from config_versions v where v.scope = ($1::text[])[1] and v.key = $2 and v.version = $3"
);

const LABELLED: &str = framed!(
    "select ",
    version_columns!(),
    " from config_labels m join config_versions v on v.scope = m.scope and v.key = m.key and v.version = m.version
      where m.scope = ($1::text[])[1] and m.key = $2 and m.label = $3"
);

const HISTORY: &str = framed!(
    "select ",
    version_columns!(),
    ", v.is_more from (
        select *, count(*) over () > row_number() over newer as is_more,
            sum(bytes) over newer - bytes as before
        from (select v.*, ",
    version_bytes!("v"),
    " as bytes from config_versions v
            where v.scope = ($1::text[])[1] and v.key = $2 and v.version < $3
            order by v.version desc limit $4::bigint + 1) as v
        window newer as (order by version desc)
        order by version desc limit $4
      ) as v where v.before < $5::bigint
      order by v.version desc"
);

const LIST: &str = framed!(
    "select ",
    layer_columns!(),
    ", k.is_more from (
        select *, count(*) over () > row_number() over ahead as is_more,
            sum(bytes) over ahead - bytes as before
        from (
            select k.key, sum(k.bytes) as bytes from unnest($1::text[]) as s (scope), lateral (
                select n.key, (select greatest(",
    version_bytes!("v"),
    ", case when rn.key is not null then ",
    version_bytes!("p"),
    " end)
                    from config_versions v
                    left join config_values rn on rn.scope = v.scope and rn.key = 'insula_rollout/' || v.key
                    left join config_versions p
                        on rn.key is not null and p.scope = v.scope and p.key = v.key and p.version = v.version - 1
                    where v.scope = n.scope and v.key = n.key and v.version = n.version) as bytes
                from config_values n where n.scope = s.scope and n.key >= $2 and n.key < $3 order by n.key limit $4::bigint + 1
            ) as k group by k.key order by k.key limit $4::bigint + 1
        ) as k
        window ahead as (order by key)
        order by key limit $4
      ) as k
      cross join unnest($1::text[]) with ordinality as s (scope, place)
      join config_values n on n.scope = s.scope and n.key = k.key
      join config_versions v on v.scope = n.scope and v.key = n.key and v.version = n.version",
    layer_joins!(),
    "where k.before < $5::bigint
      order by k.key, s.place"
);

/// The bytes behind which a page ends. What goes beyond them is still part of it,
/// and no value that is sent is longer than 1 MiB: all of it is less than the 4 MiB
/// that clients of gRPC take where nobody has told them otherwise.
const PAGE_BYTES: i64 = 2 << 20;

/// The bytes behind which it is said that there is more, where all has to be of
/// one moment. It goes to no caller.
const AT_ONCE_BYTES: i64 = 4 << 20;

/// Whether there is more behind the last row.
fn is_more(rows: &[Row]) -> bool {
    rows.last().and_then(|row| row.get::<_, Option<bool>>("is_more")) == Some(true)
}

const SNAPSHOT: &str = framed!(
    "select ",
    version_columns!(),
    " from unnest($1::text[]) with ordinality as s (scope, place)
      cross join unnest($2::text[], $3::text[]) as p (low, high)
      join config_values n on n.scope = s.scope and n.key >= p.low and n.key < p.high
      join config_versions v on v.scope = n.scope and v.key = n.key and v.version = n.version
      where v.kind <> 0
      order by n.key, s.place limit $4"
);

/// What a question has brought.
struct Found<T> {
    revision: Revision,
    items: Vec<T>,
}

impl ConfigStore {
    /// The clock.
    ///
    /// # Errors
    /// Where the store is away.
    pub async fn clocks(&self) -> Result<Clocks, Problem> {
        let rows = self.lines.query("select revision, compacted, imported from config_clock", &[]).await?;
        let row = rows.first().ok_or_else(|| Problem::internal("the clock is gone"))?;
        Ok(Clocks { revision: row.get(0), compacted: row.get(1), imported: row.get(2) })
    }

    /// The newest version of a key in each of several scopes. The last one is
    /// whose view it is.
    ///
    /// # Errors
    /// `config_moving` where one of them is of a tenant that is not read here
    /// now; where the store is away.
    pub async fn newest(&self, scopes: &[Scope], key: &ConfigKey) -> Result<Layers, Problem> {
        let rows = self.lines.query(NEWEST, &[&texts(scopes), &key.as_str()]).await?;
        let mut found = found(&rows, rows::layer_at)?;
        let layers = scopes.iter().map(|scope| {
            let at = found.items.iter().position(|layer| layer.scope == *scope);
            at.map_or_else(|| Layer::of(scope.clone(), None), |at| found.items.swap_remove(at))
        });
        Ok(Layers { layers: layers.collect(), revision: found.revision })
    }

    /// One version of a key in a scope.
    ///
    /// # Errors
    /// As [`ConfigStore::newest`].
    pub async fn version(
        &self,
        scope: &Scope,
        key: &ConfigKey,
        version: Version,
    ) -> Result<Option<Stored>, Problem> {
        let rows =
            self.lines.query(VERSION, &[&[scope.to_string()].as_slice(), &key.as_str(), &version]).await?;
        Ok(found(&rows, rows::version_at)?.items.pop())
    }

    /// The version of a key that has a label; `current` and `previous` are
    /// always on the newest and the one before it.
    ///
    /// # Errors
    /// As [`ConfigStore::newest`].
    pub async fn labelled(
        &self,
        scope: &Scope,
        key: &ConfigKey,
        label: &str,
    ) -> Result<Option<Stored>, Problem> {
        let back = match label {
            LABEL_CURRENT => 0,
            LABEL_PREVIOUS => 1,
            _ => {
                let of = [scope.to_string()];
                let rows = self.lines.query(LABELLED, &[&of.as_slice(), &key.as_str(), &label]).await?;
                return Ok(found(&rows, rows::version_at)?.items.pop());
            }
        };
        let newest = self.history(scope, key, None, back + 1).await?.versions;
        Ok(newest.into_iter().nth(back as usize))
    }

    /// The versions of a key before one, or all, the newest first; fewer where
    /// they are long.
    ///
    /// # Errors
    /// As [`ConfigStore::newest`].
    pub async fn history(
        &self,
        scope: &Scope,
        key: &ConfigKey,
        before: Option<Version>,
        limit: u32,
    ) -> Result<HistoryPage, Problem> {
        let (of, before, limit) = ([scope.to_string()], before.unwrap_or(Version::MAX), i64::from(limit));
        let asked: [&(dyn ToSql + Sync); 5] = [&of.as_slice(), &key.as_str(), &before, &limit, &PAGE_BYTES];
        let rows = self.lines.query(HISTORY, &asked).await?;
        let versions = found(&rows, rows::version_at)?.items;
        let next = versions.last().filter(|_| is_more(&rows)).map(|last| last.version);
        Ok(HistoryPage { versions, next })
    }

    /// The keys under a prefix that any of several scopes has, behind a key;
    /// fewer where their values are long.
    ///
    /// # Errors
    /// As [`ConfigStore::newest`].
    pub async fn list(
        &self,
        scopes: &[Scope],
        prefix: &KeyPrefix,
        after: Option<&ConfigKey>,
        limit: u32,
    ) -> Result<ListPage, Problem> {
        self.listed(scopes, &range_after(prefix, after), (limit, PAGE_BYTES)).await
    }

    /// The keys under a prefix that any of several scopes has, for whoever needs
    /// all of them as they were at one moment: where there are more than `limit`,
    /// or they are longer than 4 MiB, there is a `next`.
    ///
    /// # Errors
    /// As [`ConfigStore::newest`].
    pub async fn list_at_once(
        &self,
        scopes: &[Scope],
        prefix: &KeyPrefix,
        limit: u32,
    ) -> Result<ListPage, Problem> {
        self.listed(scopes, &range_after(prefix, None), (limit, AT_ONCE_BYTES)).await
    }

    async fn listed(
        &self,
        scopes: &[Scope],
        range: &Range,
        (limit, bytes): (u32, i64),
    ) -> Result<ListPage, Problem> {
        let (of, limit) = (texts(scopes), i64::from(limit));
        let asked: [&(dyn ToSql + Sync); 5] = [&of, &range.low, &range.high, &limit, &bytes];
        let rows = self.lines.query(LIST, &asked).await?;
        let last = rows.last().and_then(|row| row.get::<_, Option<&str>>(3));
        let next = last.filter(|_| is_more(&rows)).map(rows::key).transpose()?;
        let found = found(&rows, rows::layer_at)?;
        let mut keys: Vec<KeyLayers> = Vec::new();
        for layer in found.items {
            let Some(key) = layer.stored.as_ref().map(|stored| stored.key.clone()) else { continue };
            match keys.last_mut().filter(|last| last.key == key) {
                Some(last) => last.layers.push(layer),
                None => keys.push(KeyLayers { key, layers: vec![layer] }),
            }
        }
        Ok(ListPage { revision: found.revision, keys, next })
    }

    /// All that several scopes have under prefixes, at one moment; all keys
    /// where there is no prefix. The last scope is whose view it is.
    ///
    /// # Errors
    /// As [`ConfigStore::newest`]; `quota_exceeded` where there are more than `max`.
    pub async fn snapshot(
        &self,
        scopes: &[Scope],
        prefixes: &[KeyPrefix],
        max: u32,
    ) -> Result<Snapshot, Problem> {
        let (lows, highs): (Vec<_>, Vec<_>) =
            ranges(prefixes).into_iter().map(|range| (range.low, range.high)).unzip();
        let limit = i64::from(max) + 1;
        let rows = self.large.query(SNAPSHOT, &[&texts(scopes), &lows, &highs, &limit]).await?;
        if rows.len() > max as usize {
            let detail = format!("There are more than {max} values under the prefixes.");
            return Err(Problem::new(Code::QuotaExceeded, detail));
        }
        let Found { revision, items } = found(&rows, rows::version_at)?;
        Ok(Snapshot { revision, entries: items })
    }
}

fn texts(scopes: &[Scope]) -> Vec<String> {
    scopes.iter().map(ToString::to_string).collect()
}

fn found<T>(
    rows: &[Row],
    read: impl Fn(&Row, usize) -> Result<Option<T>, Problem>,
) -> Result<Found<T>, Problem> {
    let first = rows.first().ok_or_else(|| Problem::internal("the clock is gone"))?;
    let elsewhere: Vec<&str> = first.get(1);
    // Without what is set there, what is further away would seem to count.
    if !elsewhere.is_empty() {
        return Err(crate::homes::moving());
    }
    let items = rows.iter().filter_map(|row| read(row, 2).transpose());
    Ok(Found { revision: first.get(0), items: items.collect::<Result<_, _>>()? })
}
