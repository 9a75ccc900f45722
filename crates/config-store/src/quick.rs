//! The usual write, in one statement: values that are put, each in another scope,
//! with nothing that needs a decision. The lock, the look at what is there, the
//! versions and the commit are one journey to the server; where one of them is not
//! as it usually is, nothing is written, and it is decided here.

use std::collections::BTreeSet;

use insula_config_model::{
    ConfigValue, Revision, Room, Scope, Stored, TagTable, Transaction, Version, WriteOp, author_of,
};
use insula_problem::Problem;
use time::OffsetDateTime;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;

use crate::line::Line;
use crate::log::{LogChange, LogRow};
use crate::rows::newest_schema;
use crate::usage::Quota;

/// A function of the session's own, which locks the clock and then writes. Each of
/// its statements sees what was committed before it begins, and so the second one
/// all that was written before the lock was had. It has the same rules as `decide`
/// and `usage`, for what they let pass; one that would not pass has none of them
/// written. Sent as one statement it is answered once, behind its commit.
const FUNCTION: &str = concat!(
    "create function pg_temp.insula_quick(text[], text[], bytea[], text[], text[], int[], bigint[], bigint[],
        timestamptz, bigint, bigint, bigint, text[], bigint[])
    returns table (put_version bigint, put_revision bigint) language plpgsql as $quick$ begin
    perform from config_clock for update;
    return query with there as materialized (
        select a.*, c.revision + a.place as revision, coalesce(n.version, 0) + 1 as version,
            coalesce(v.kind <> 0, false) as was_set,
            coalesce(octet_length(v.value), 0)::bigint as before,
            octet_length(a.value)::bigint as bytes,
            (octet_length(a.value) + octet_length(a.key) + 128)::bigint as more,
            (a.tags is null or a.tags >= coalesce((
                select t.version from config_values t where t.scope = 'platform' and t.key = 'insula_tags'), 0))
            and (a.scope not like 'tenant/%' or coalesce(h.state = 'open', false))
            and (a.if_version is null or a.if_version = coalesce(n.version, 0)
                or (a.if_version = 0 and coalesce(v.kind = 0, true)))
            and coalesce(u.kept, 0) + octet_length(a.value) + octet_length(a.key) + 128 <= $12
            and (coalesce(v.kind <> 0, false) or coalesce(u.keys, 0) < $10)
            and (octet_length(a.value) <= coalesce(octet_length(v.value), 0)
                or coalesce(u.bytes, 0) + octet_length(a.value) - coalesce(octet_length(v.value), 0) <= $11)
            as is_usual
        from unnest($1::text[], $2::text[], $3::bytea[], $4::text[], $5::text[], $6::int[], $7::bigint[],
            $8::bigint[]) with ordinality
            as a (scope, key, value, author, note, history, if_version, tags, place)
        cross join config_clock c
        left join config_values n on n.scope = a.scope and n.key = a.key
        left join config_versions v on v.scope = n.scope and v.key = n.key and v.version = n.version
        left join config_homes h on h.scope = a.scope
        left join config_usage u on u.scope = a.scope
    ), new as materialized (
        select t.* from there t where (select bool_and(is_usual) from there) and not exists (
            select from unnest($13::text[], $14::bigint[]) as s (scope, known)
            where s.known <> ",
    newest_schema!("s.scope"),
    ")
    ), versions as (
        insert into config_versions (scope, key, version, revision, kind, value, author, at, note)
        select scope, key, version, revision, 1, value, author, $9, note from new
    ), newest as (
        insert into config_values (scope, key, version, history)
        select scope, key, version, history from new
        on conflict (scope, key) do update set version = excluded.version, history = excluded.history
    ), logged as (
        insert into config_log (revision, scope, key, kind, version, at)
        select revision, scope, key, 1, version, $9 from new
    ), gone as (
        delete from config_versions v using new n
        where v.scope = n.scope and v.key = n.key and v.version <= n.version - n.history and not exists (
            select from config_labels l where l.scope = v.scope and l.key = v.key and l.version = v.version)
        returning v.scope, coalesce(octet_length(v.value), 0) + octet_length(v.key) + 128 as bytes
    ), used as (
        insert into config_usage as u (scope, keys, bytes, kept)
        select n.scope, 1 - n.was_set::int, n.bytes - n.before,
            n.more - coalesce((select sum(g.bytes) from gone g where g.scope = n.scope), 0) from new n
        on conflict (scope) do update
        set keys = u.keys + excluded.keys, bytes = u.bytes + excluded.bytes, kept = u.kept + excluded.kept
    ), clock as (
        update config_clock set revision = (select max(revision) from new) where exists (select from new)
    )
    select n.version, n.revision from new n order by n.place;
    end $quick$"
);

const PUT: &str = "select put_version, put_revision
    from pg_temp.insula_quick($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)";

/// Has the session of a line know how usual writes are done. Where it may not have
/// functions of its own, they are decided like all others.
pub(crate) async fn teach(mut line: Line) -> Result<Line, Problem> {
    let taught = line.client().batch_execute(FUNCTION).await;
    line.is_quick = match taught {
        Ok(()) => true,
        Err(error) if error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) => {
            tracing::warn!(%error, "writes of configuration take longer without the privilege TEMPORARY");
            false
        }
        Err(error) => return Err(line.problem(error)),
    };
    Ok(line)
}

/// Writes that may be done in one journey, as columns.
#[derive(Default)]
pub(crate) struct Quick<'t> {
    scopes: Vec<String>,
    keys: Vec<&'t str>,
    values: Vec<&'t [u8]>,
    authors: Vec<&'t str>,
    notes: Vec<&'t str>,
    history: Vec<i32>,
    if_version: Vec<Option<Version>>,
    tags: Vec<Option<Version>>,
    schemas: BTreeSet<(String, Revision)>,
}

impl<'t> Quick<'t> {
    /// None where one of them is another kind of write.
    pub fn of(transactions: impl IntoIterator<Item = &'t Transaction>) -> Option<Self> {
        let mut quick = Self::default();
        for transaction in transactions {
            let [write] = transaction.writes.as_slice() else { return None };
            let WriteOp::Put(ConfigValue::Json(text)) = &write.op else { return None };
            let scope = write.scope.to_string();
            let is_usual = transaction.token.is_none()
                && write.made.is_none()
                && write.room == Room::Usual
                // By these others are decided, which may be among them.
                && !write.key.as_str().starts_with(TagTable::OWN)
                && !quick.scopes.contains(&scope);
            if !is_usual {
                return None;
            }
            let schemas = transaction.schemas.iter().map(|(scope, known)| (Scope::to_string(scope), *known));
            quick.schemas.extend(schemas);
            quick.scopes.push(scope);
            quick.keys.push(write.key.as_str());
            quick.values.push(text);
            quick.authors.push(&transaction.author);
            quick.notes.push(&write.note);
            quick.history.push(i32::try_from(write.history.max(1)).unwrap_or(i32::MAX));
            quick.if_version.push(write.if_version);
            quick.tags.push(transaction.tags);
        }
        Some(quick)
    }
}

/// Writes them all; the version and the revision of each. None where nothing was
/// written since one of them is to be decided. The error says whether nothing
/// was, for certain.
pub(crate) async fn put(
    line: &Line,
    quick: &Quick<'_>,
    quota: &Quota,
    at: OffsetDateTime,
) -> Result<Option<Vec<(Version, Revision)>>, (Problem, bool)> {
    let put = line.statement(PUT).await.map_err(|error| (line.problem(error), true))?;
    let (schemas, known): (Vec<&str>, Vec<Revision>) =
        quick.schemas.iter().map(|(scope, known)| (scope.as_str(), *known)).unzip();
    let of: [&(dyn ToSql + Sync); 14] = [
        &quick.scopes,
        &quick.keys,
        &quick.values,
        &quick.authors,
        &quick.notes,
        &quick.history,
        &quick.if_version,
        &quick.tags,
        &at,
        &quota.keys,
        &quota.bytes,
        &quota.kept,
        &schemas,
        &known,
    ];
    let rows = line.client().query(&put, &of).await.map_err(|error| {
        // Whatever the server reports is from before the commit, and has undone it.
        let is_refused = error.as_db_error().is_some();
        (line.problem(error), is_refused)
    })?;
    let written: Vec<_> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    Ok((written.len() == quick.scopes.len()).then_some(written))
}

/// What was written, as the log has it.
pub(crate) fn rows<'t>(
    transactions: impl IntoIterator<Item = &'t Transaction>,
    put: &[(Version, Revision)],
    at: OffsetDateTime,
) -> Vec<LogRow> {
    let row = |(transaction, (version, revision)): (&Transaction, &(Version, Revision))| {
        let write = transaction.writes.first()?;
        let WriteOp::Put(value) = &write.op else { return None };
        let stored = Stored {
            scope: write.scope.clone(),
            key: write.key.clone(),
            version: *version,
            revision: *revision,
            value: Some(value.clone()),
            labels: BTreeSet::new(),
            author: author_of(&transaction.author).to_owned(),
            at,
            note: write.note.clone(),
        };
        let (key, stored, history) = (write.key.clone(), Some(Box::new(stored)), write.history);
        let change = LogChange::Version { key, version: *version, stored, history };
        Some(LogRow { revision: *revision, scope: write.scope.clone(), at, change })
    };
    transactions.into_iter().zip(put).filter_map(row).collect()
}
