//! Effects around the decision: reading what a batch asks for when the clock is
//! locked, and writing what was decided. Each is one journey to the server.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::{FutureExt, try_join};
use insula_config_model::{
    ConfigKey, ConfigValue, Label, Revision, Scope, TagTable, Transaction, Version, WriteOp, Written,
};
use insula_problem::Problem;
use time::OffsetDateTime;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Error, Row, Statement};

use crate::Ambient;
use crate::decide::{Answered, Change, Hashed, KeyState, Newest, Place, State, What, token_place};
use crate::line::Line;
use crate::rows::{self, Kept, newest_schema};
use crate::usage::{OfKey, Quota, Usage};

pub(crate) const LOCK: &str = "select revision from config_clock for update";

/// How much the versions of a key are is counted where there is little room left.
const KEYS: &str = "select k.scope, k.key, n.version, v.revision, v.kind, h.state = 'open',
        coalesce(octet_length(v.value), 0)::bigint, u.keys, u.bytes, u.kept,
        case when u.kept > $3 then (
            select coalesce(sum(coalesce(octet_length(o.value), 0) + octet_length(o.key) + 128), 0)::bigint
            from config_versions o where o.scope = k.scope and o.key = k.key and not exists (
                select from config_labels l where l.scope = o.scope and l.key = o.key and l.version = o.version)
        ) end
    from unnest($1::text[], $2::text[]) as k (scope, key)
    left join config_values n on n.scope = k.scope and n.key = k.key
    left join config_versions v on v.scope = n.scope and v.key = n.key and v.version = n.version
    left join config_homes h on h.scope = k.scope
    left join config_usage u on u.scope = k.scope";

const LABELS: &str = "select l.scope, l.key, l.label, l.version
    from unnest($1::text[], $2::text[]) as k (scope, key)
    join config_labels l on l.scope = k.scope and l.key = k.key";

/// The newest change of the schemas of each scope.
const SCHEMAS: &str =
    concat!("select s.scope, ", newest_schema!("s.scope"), " from unnest($1::text[]) as s (scope)");

const OLD: &str = "select v.scope, v.key, v.version, v.kind, v.value
    from unnest($1::text[], $2::text[], $3::bigint[]) as k (scope, key, version)
    join config_versions v on v.scope = k.scope and v.key = k.key and v.version = k.version";

/// The versions that have a label, and those that may be the previous one when
/// it is decided.
const LABELLED_OLD: &str = "select v.scope, v.key, v.version, v.kind, v.value
    from unnest($1::text[], $2::text[], $3::text[]) as k (scope, key, label)
    join lateral (
        select l.version from config_labels l
        where l.scope = k.scope and l.key = k.key and l.label = k.label
        union
        select n.version - back from config_values n, generate_series(0, 1) as back
        where n.scope = k.scope and n.key = k.key and k.label in ('current', 'previous')
    ) w on true
    join config_versions v on v.scope = k.scope and v.key = k.key and v.version = w.version";

const TOKENS: &str = "select r.scope, r.token, r.hash, r.key_generation, r.answer::text
    from unnest($1::text[], $2::text[]) as k (scope, token)
    join config_requests r on r.scope = k.scope and r.token = k.token";

const BLOBS: &str = "select b.scope, b.sha256
    from unnest($1::text[], $2::text[]) as k (scope, sha256)
    join config_blobs b on b.scope = k.scope and b.sha256 = k.sha256";

const WRITE: &str = "with new as (
        select * from unnest($1::bigint[], $2::text[], $3::text[], $4::bigint[], $5::smallint[], $6::bytea[],
            $7::int[], $8::text[], $9::text[], $10::int[], $11::boolean[], $12::timestamptz[])
        as n (revision, scope, key, version, kind, value, key_generation, author, note, history, newest, at)
    ), versions as (
        insert into config_versions
            (scope, key, version, revision, kind, value, key_generation, author, at, note)
        select scope, key, version, revision, kind, value, key_generation, author, at, note from new
    ), used as (
        insert into config_usage as u (scope, keys, bytes, kept)
        select n.scope,
            coalesce(sum((n.kind <> 0)::int - coalesce((o.kind <> 0)::int, 0)) filter (where n.newest), 0),
            coalesce(sum(coalesce(octet_length(n.value), 0) - coalesce(octet_length(o.value), 0))
                filter (where n.newest), 0),
            sum(coalesce(octet_length(n.value), 0) + octet_length(n.key) + 128)
        from new n
        left join config_values c on c.scope = n.scope and c.key = n.key
        left join config_versions o on o.scope = c.scope and o.key = c.key and o.version = c.version
        group by n.scope
        on conflict (scope) do update
        set keys = u.keys + excluded.keys, bytes = u.bytes + excluded.bytes, kept = u.kept + excluded.kept
    ), newest as (
        insert into config_values (scope, key, version, history)
        select scope, key, version, history from new where newest
        on conflict (scope, key) do update set version = excluded.version, history = excluded.history
    ), logged as (
        insert into config_log (revision, scope, key, kind, version, at)
        select revision, scope, key, 1, version, $13 from new
    )
    update config_clock set revision = $14";

const LABELLED: &str = "with new as (
        select * from unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::boolean[])
        as n (revision, scope, key, label, version, newest)
    ), taken as (
        delete from config_labels l using new n
        where n.newest and n.version is null and l.scope = n.scope and l.key = n.key and l.label = n.label
    ), put as (
        insert into config_labels (scope, key, label, version)
        select scope, key, label, version from new where newest and version is not null
        on conflict (scope, key, label) do update set version = excluded.version
    )
    insert into config_log (revision, scope, key, kind, version, label, at)
    select revision, scope, key, 2, version, label, $7 from new";

const TRIM: &str = "with gone as (
        delete from config_versions v
        using unnest($1::text[], $2::text[], $3::bigint[]) as n (scope, key, last)
        where v.scope = n.scope and v.key = n.key and v.version <= n.last and not exists (
            select from config_labels l where l.scope = v.scope and l.key = v.key and l.version = v.version)
        returning v.scope, coalesce(octet_length(v.value), 0) + octet_length(v.key) + 128 as bytes
    )
    update config_usage u set kept = u.kept - g.bytes
    from (select scope, sum(bytes) as bytes from gone group by scope) g where u.scope = g.scope";

const REQUESTS: &str = "insert into config_requests (scope, token, hash, key_generation, answer, at)
    select r.scope, r.token, r.hash, r.key_generation, r.answer::jsonb, $6
    from unnest($1::text[], $2::text[], $3::bytea[], $4::int[], $5::text[])
    as r (scope, token, hash, key_generation, answer)
    on conflict (scope, token) do update
        set hash = excluded.hash, key_generation = excluded.key_generation, answer = excluded.answer, at = excluded.at";

/// What a batch asks for.
#[derive(Debug, Default)]
pub(crate) struct Ask<'t> {
    keys: BTreeSet<(String, &'t str)>,
    labels: BTreeSet<(String, &'t str)>,
    old: BTreeSet<(String, &'t str, Version)>,
    labelled: BTreeSet<(String, &'t str, &'t str)>,
    tokens: BTreeSet<(String, String)>,
    blobs: BTreeSet<(String, &'t str)>,
    schemas: BTreeSet<String>,
}

impl<'t> Ask<'t> {
    pub fn of(transactions: impl IntoIterator<Item = &'t Transaction>) -> Self {
        let mut ask = Self::default();
        ask.keys.insert((Scope::Platform.to_string(), TagTable::KEY));
        for transaction in transactions {
            ask.tokens.extend(token_place(transaction).map(|(scope, token)| (scope.to_string(), token)));
            ask.schemas.extend(transaction.schemas.iter().map(|(scope, _)| scope.to_string()));
            for write in &transaction.writes {
                let (scope, key) = (write.scope.to_string(), write.key.as_str());
                match &write.op {
                    WriteOp::Put(ConfigValue::Blob(blob)) => {
                        ask.blobs.insert((scope.clone(), &blob.sha256));
                    }
                    WriteOp::Put(_) | WriteOp::Remove => {}
                    WriteOp::Rollback(version) => {
                        ask.old.insert((scope.clone(), key, *version));
                    }
                    WriteOp::RollbackTo(label) => {
                        ask.labels.insert((scope.clone(), key));
                        ask.labelled.insert((scope.clone(), key, label));
                    }
                    WriteOp::Label(_, version) => {
                        ask.labels.insert((scope.clone(), key));
                        ask.old.extend(version.map(|version| (scope.clone(), key, version)));
                    }
                }
                ask.keys.insert((scope, key));
            }
        }
        ask
    }
}

/// What was found: what there is, and what was done under the tokens.
pub(crate) struct Found {
    pub state: State,
    pub answered: BTreeMap<(Scope, String), Answered>,
}

async fn some(
    client: &Client,
    sql: Option<Statement>,
    of: [&(dyn ToSql + Sync); 2],
) -> Result<Vec<Row>, Error> {
    match sql {
        Some(sql) => client.query(&sql, &of).await,
        None => Ok(Vec::new()),
    }
}

async fn prepared(line: &Line, sql: &'static str, is_wanted: bool) -> Result<Option<Statement>, Error> {
    if is_wanted { line.statement(sql).await.map(Some) } else { Ok(None) }
}

/// Begins a transaction, locks the clock, and reads what is asked for behind that.
pub(crate) async fn begin(
    line: &Line,
    ask: &Ask<'_>,
    ambient: &Ambient,
    quota: &Quota,
) -> Result<Found, Problem> {
    let db = |error| line.problem(error);
    let (lock, keys) = try_join!(line.statement(LOCK), line.statement(KEYS)).map_err(db)?;
    let labels = prepared(line, LABELS, !ask.labels.is_empty()).await.map_err(db)?;
    let old = prepared(line, OLD, !ask.old.is_empty()).await.map_err(db)?;
    let labelled = prepared(line, LABELLED_OLD, !ask.labelled.is_empty()).await.map_err(db)?;
    let tokens = prepared(line, TOKENS, !ask.tokens.is_empty()).await.map_err(db)?;
    let blobs = prepared(line, BLOBS, !ask.blobs.is_empty()).await.map_err(db)?;
    let schemas = prepared(line, SCHEMAS, !ask.schemas.is_empty()).await.map_err(db)?;

    let key_columns = columns(&ask.keys);
    let label_columns = columns(&ask.labels);
    let token_columns = columns(&ask.tokens);
    let blob_columns = columns(&ask.blobs);
    let old_columns: (Vec<&str>, Vec<&str>) =
        ask.old.iter().map(|(scope, key, _)| (scope.as_str(), *key)).unzip();
    let old_versions: Vec<Version> = ask.old.iter().map(|(_, _, version)| *version).collect();
    let client = line.client();
    let little_room = quota.kept / 2;
    let of_keys: [&(dyn ToSql + Sync); 3] = [&key_columns.0, &key_columns.1, &little_room];
    let old = async {
        match old {
            Some(sql) => client.query(&sql, &[&old_columns.0, &old_columns.1, &old_versions]).await,
            None => Ok(Vec::new()),
        }
    };
    let labelled_columns: (Vec<&str>, Vec<&str>) =
        ask.labelled.iter().map(|(scope, key, _)| (scope.as_str(), *key)).unzip();
    let labels_of: Vec<&str> = ask.labelled.iter().map(|(_, _, label)| *label).collect();
    let labelled = async {
        match labelled {
            Some(sql) => client.query(&sql, &[&labelled_columns.0, &labelled_columns.1, &labels_of]).await,
            None => Ok(Vec::new()),
        }
    };
    let schema_scopes: Vec<&str> = ask.schemas.iter().map(String::as_str).collect();
    let schemas = async {
        match schemas {
            Some(sql) => client.query(&sql, &[&schema_scopes]).await,
            None => Ok(Vec::new()),
        }
    };
    // Sent one behind the other without waiting for answers. Each statement sees
    // what is committed when it begins, which is when the lock is there.
    let ((), clock, keys, labels, old, labelled, tokens, blobs, schemas) = try_join!(
        client.batch_execute("begin"),
        client.query_one(&lock, &[]),
        client.query(&keys, &of_keys).boxed(),
        some(client, labels, [&label_columns.0, &label_columns.1]).boxed(),
        old.boxed(),
        labelled.boxed(),
        some(client, tokens, [&token_columns.0, &token_columns.1]).boxed(),
        some(client, blobs, [&blob_columns.0, &blob_columns.1]).boxed(),
        schemas.boxed(),
    )
    .map_err(db)?;

    let mut state = State { revision: clock.get(0), quota: *quota, ..State::default() };
    for row in &keys {
        let place = place(row)?;
        if row.get::<_, Option<bool>>(5) == Some(true) {
            state.open.insert(place.0.clone());
        }
        // Of a tenant that is coming here the versions may not be there yet.
        let newest = row.get::<_, Option<Revision>>(3).map(|revision| Newest {
            version: row.get(2),
            revision,
            is_removal: rows::is_removal(row.get(4)),
        });
        let number = |column: usize| row.get::<_, Option<i64>>(column).unwrap_or(0);
        if place.0 == Scope::Platform && place.1.as_str() == TagTable::KEY {
            state.tags = newest.map_or(0, |newest| newest.version);
        }
        let usage = Usage { keys: number(7), bytes: number(8), kept: number(9) };
        state.usage.insert(place.0.clone(), usage);
        let usage = OfKey { newest: number(6), unlabelled: number(10) };
        state.keys.insert(place, KeyState { newest, usage, ..KeyState::default() });
    }
    for row in &labels {
        let label: Label = row.get::<_, &str>(2).parse().map_err(Problem::internal)?;
        state.keys.entry(place(row)?).or_default().labels.insert(label, row.get(3));
    }
    for row in old.iter().chain(&labelled) {
        let (place, version) = (place(row)?, row.get(2));
        let value = ambient.old(&place, version, rows::value(row.get(3), row.get(4))?);
        state.keys.entry(place).or_default().versions.insert(version, value);
    }
    for row in &blobs {
        state.blobs.insert((rows::scope(row.get(0))?, row.get(1)));
    }
    for row in &schemas {
        state.schemas.insert(rows::scope(row.get(0))?, row.get(1));
    }
    let mut answered = BTreeMap::new();
    for row in &tokens {
        let request = (rows::scope(row.get(0))?, row.get::<_, String>(1));
        let hash = Hashed { hash: row.get(2), key_generation: row.get(3) };
        let answer: Vec<Written> = serde_json::from_str(row.get(4)).map_err(Problem::internal)?;
        answered.insert(request, Answered { hash, answer });
    }
    Ok(Found { state, answered })
}

fn columns<T: AsRef<str>>(pairs: &BTreeSet<(String, T)>) -> (Vec<&str>, Vec<&str>) {
    pairs.iter().map(|(first, second)| (first.as_str(), second.as_ref())).unzip()
}

fn place(row: &Row) -> Result<Place, Problem> {
    Ok((rows::scope(row.get(0))?, rows::key(row.get(1))?))
}

/// A change with what is to be kept of it, and who made it.
#[derive(Debug)]
pub(crate) struct Ready {
    pub change: Change,
    pub kept: Option<Kept>,
    pub author: String,
    pub at: OffsetDateTime,
}

/// What is remembered of a request that was done under a token.
#[derive(Debug)]
pub(crate) struct Remembered {
    pub request: (Scope, String),
    pub done: Answered,
}

#[derive(Default)]
struct Versions<'c> {
    revision: Vec<Revision>,
    scope: Vec<String>,
    key: Vec<&'c str>,
    version: Vec<Version>,
    kind: Vec<i16>,
    value: Vec<Option<&'c [u8]>>,
    key_generation: Vec<Option<i32>>,
    author: Vec<&'c str>,
    note: Vec<&'c str>,
    history: Vec<i32>,
    newest: Vec<bool>,
    at: Vec<OffsetDateTime>,
}

#[derive(Default)]
struct Labels<'c> {
    revision: Vec<Revision>,
    scope: Vec<String>,
    key: Vec<&'c str>,
    label: Vec<&'c str>,
    version: Vec<Option<Version>>,
    newest: Vec<bool>,
}

#[derive(Default)]
struct Trims<'c> {
    scope: Vec<String>,
    key: Vec<&'c str>,
    last: Vec<Version>,
}

/// Writes what was decided, and commits. Others are told by whoever has called.
pub(crate) async fn commit(
    line: &Line,
    ready: &[Ready],
    remembered: &[Remembered],
    at: OffsetDateTime,
) -> Result<(), Problem> {
    let db = |error| line.problem(error);
    let client = line.client();
    if ready.is_empty() && remembered.is_empty() {
        return client.batch_execute("rollback").await.map_err(db);
    }
    let (versions, labels, trims) = sorted(ready);
    let last = ready.last().map_or(0, |last| last.change.revision);
    let has = |is_wanted: bool, sql| prepared(line, sql, is_wanted);
    let write = has(!ready.is_empty(), WRITE).await.map_err(db)?;
    let label = has(!labels.revision.is_empty(), LABELLED).await.map_err(db)?;
    let trim = has(!trims.scope.is_empty(), TRIM).await.map_err(db)?;
    let request = has(!remembered.is_empty(), REQUESTS).await.map_err(db)?;

    let write = async {
        let Some(sql) = write else { return Ok(0) };
        let v = &versions;
        let of: [&(dyn ToSql + Sync); 14] = [
            &v.revision,
            &v.scope,
            &v.key,
            &v.version,
            &v.kind,
            &v.value,
            &v.key_generation,
            &v.author,
            &v.note,
            &v.history,
            &v.newest,
            &v.at,
            &at,
            &last,
        ];
        client.execute(&sql, &of).await
    };
    let label = async {
        let Some(sql) = label else { return Ok(0) };
        let l = &labels;
        client.execute(&sql, &[&l.revision, &l.scope, &l.key, &l.label, &l.version, &l.newest, &at]).await
    };
    let trim = async {
        let Some(sql) = trim else { return Ok(0) };
        client.execute(&sql, &[&trims.scope, &trims.key, &trims.last]).await
    };
    let requests = async {
        let Some(sql) = request else { return Ok(0) };
        remember(client, &sql, remembered, at).await
    };
    try_join!(
        write.boxed(),
        label.boxed(),
        trim.boxed(),
        requests.boxed(),
        client.batch_execute("commit").boxed()
    )
    .map_err(db)?;
    Ok(())
}

async fn remember(
    client: &Client,
    sql: &Statement,
    remembered: &[Remembered],
    at: OffsetDateTime,
) -> Result<u64, Error> {
    let scopes: Vec<String> = remembered.iter().map(|one| one.request.0.to_string()).collect();
    let tokens: Vec<&str> = remembered.iter().map(|one| one.request.1.as_str()).collect();
    let hashes: Vec<&[u8]> = remembered.iter().map(|one| one.done.hash.hash.as_slice()).collect();
    let generations: Vec<i32> = remembered.iter().map(|one| one.done.hash.key_generation).collect();
    let answers: Vec<String> = remembered.iter().map(|one| answer_text(&one.done.answer)).collect();
    client.execute(sql, &[&scopes, &tokens, &hashes, &generations, &answers, &at]).await
}

/// An answer as it is kept.
fn answer_text(answer: &[Written]) -> String {
    // Numbers alone, which always have a text.
    serde_json::to_string(answer).unwrap_or_default()
}

/// The changes as columns. Of several of the same key the last one is the newest.
fn sorted(ready: &[Ready]) -> (Versions<'_>, Labels<'_>, Trims<'_>) {
    let (mut versions, mut labels, mut trims) = (Versions::default(), Labels::default(), Trims::default());
    let mut seen: BTreeSet<(&Scope, &ConfigKey, Option<&Label>)> = BTreeSet::new();
    for one in ready.iter().rev() {
        let (scope, key) = &one.change.place;
        match &one.change.what {
            What::Version { version, note, history, .. } => {
                let Some(kept) = &one.kept else { continue };
                let is_newest = seen.insert((scope, key, None));
                versions.revision.push(one.change.revision);
                versions.scope.push(scope.to_string());
                versions.key.push(key.as_str());
                versions.version.push(*version);
                versions.kind.push(kept.kind);
                versions.value.push(kept.value.as_deref());
                versions.key_generation.push(kept.key_generation);
                versions.author.push(&one.author);
                versions.note.push(note);
                versions.history.push(i32::try_from(*history).unwrap_or(i32::MAX));
                versions.newest.push(is_newest);
                versions.at.push(one.at);
                let last = version - Version::from((*history).max(1));
                if is_newest && last > 0 {
                    trims.scope.push(scope.to_string());
                    trims.key.push(key.as_str());
                    trims.last.push(last);
                }
            }
            What::Label { label, version } => {
                labels.revision.push(one.change.revision);
                labels.scope.push(scope.to_string());
                labels.key.push(key.as_str());
                labels.label.push(label.as_str());
                labels.version.push(*version);
                labels.newest.push(seen.insert((scope, key, Some(label))));
            }
        }
    }
    (versions, labels, trims)
}
