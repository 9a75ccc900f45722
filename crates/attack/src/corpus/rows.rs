//! Rows of the shared tables: reading and writing past row security, keys that
//! collide or are referred to, and filters that see rows before the policy does.

use crate::attempt::Want::{NotSaying, Nothing, Refused, Unseen, Without};
use crate::attempt::{Attempt, sql};

pub(super) const ROWS: &[Attempt] = &[
    sql("select-all", "Read the whole table.", Unseen, &["select * from {table}"]),
    sql(
        "select-by-tenant",
        "Read the rows with the victim's tenant id.",
        Nothing,
        &["select * from {table} where tenant_id = '{id}'"],
    ),
    sql(
        "select-or-true",
        "Read with a condition that is true for all.",
        Unseen,
        &["select * from {table} where true or tenant_id is not null"],
    ),
    sql(
        "select-only",
        "Read the table itself, without those that inherit from it.",
        Unseen,
        &["select * from only {table}"],
    ),
    sql(
        "select-whole-row",
        "Read rows as one value.",
        Unseen,
        &["select t::text, to_jsonb(t), row(t.*) from {table} t"],
    ),
    sql(
        "select-sample",
        "Read a sample of the table's pages.",
        Unseen,
        &[
            "select * from {table} tablesample system (100)",
            "select * from {table} tablesample bernoulli (100) repeatable (0)",
        ],
    ),
    sql(
        "select-by-ctid",
        "Read rows by their places on disk.",
        Unseen,
        &[
            "select * from {table} where ctid in ('(0,1)', '(0,2)', '(0,3)', '(0,4)')",
            "select * from {table} where ctid >= '(0,0)'",
        ],
    ),
    sql(
        "select-system-columns",
        "Read what the system keeps beside each row.",
        Unseen,
        &["select ctid, xmin, xmax, tableoid, {column} from {table}"],
    ),
    sql(
        "select-lateral",
        "Read by a join on nothing.",
        Unseen,
        &["select b.{column} from (select 1) a left join lateral (select * from {table}) b on true"],
    ),
    sql(
        "select-for-update",
        "Lock the victim's rows.",
        Nothing,
        &["begin", "select {column} from {table} where tenant_id = '{id}' for update"],
    ),
    sql(
        "select-in-aggregate",
        "Read within an aggregate.",
        Unseen,
        &["select string_agg({column}, ',') over (), array_agg({column}) over () from {table}"],
    ),
    sql(
        "select-as-xml",
        "Read by functions that turn tables into XML.",
        Unseen,
        &[
            "select query_to_xml('select * from {table}', true, true, '')",
            "select table_to_xml('{table}', true, true, '')",
            "select schema_to_xml('{schema}', true, true, '')",
            "select database_to_xml(true, true, '')",
        ],
    ),
    sql(
        "select-in-search",
        "Read by functions of text search that run a query.",
        Unseen,
        &["select * from ts_stat('select to_tsvector(''simple'', {column}) from {table}')"],
    ),
    sql(
        "select-in-rewrite",
        "Read by a function that rewrites queries.",
        Unseen,
        &[
            "select ts_rewrite('a'::tsquery, 'select ''a''::tsquery, plainto_tsquery(''simple'', {column}) from {table} limit 1')",
        ],
    ),
    sql(
        "select-by-cursor",
        "Read by a cursor that outlives its transaction.",
        Unseen,
        &["begin; declare c cursor with hold for select * from {table}; commit", "fetch all from c"],
    ),
    sql(
        "select-of-schema",
        "Read the victim's schema by its name.",
        Unseen,
        &["select * from {schema}.{table}"],
    ),
    sql("select-of-pool", "Read the pool's tables by their schema.", Unseen, &["select * from app.{table}"]),
    sql(
        "select-copy-views",
        "Read the views that COPY uses.",
        Unseen,
        &["select * from insula_copy.{table}", "table insula_copy.{table}"],
    ),
    sql(
        "table-command",
        "Read by TABLE, UNION and VALUES.",
        Unseen,
        &["table {table}", "select {column} from {table} union all select {column} from {schema}.{table}"],
    ),
    sql(
        "recursive",
        "Read in a recursive query.",
        Unseen,
        &["with recursive r as (select {column} from {table} union select {column} from r) select * from r"],
    ),
    sql(
        "row-security-off",
        "Read with row security off.",
        Unseen,
        &["set row_security = off", "select * from {table}"],
    ),
    sql(
        "row-security-off-local",
        "Read with row security off for a transaction.",
        Unseen,
        &["begin; set local row_security = off", "select * from {table}"],
    ),
    sql(
        "force-custom-tenant",
        "Read with settings that look like the tenant's.",
        Unseen,
        &[
            "set insula.tenant = '{id}'; set insula.tenant_id = '{id}'; set app.tenant_id = '{id}'",
            "select * from {table}",
        ],
    ),
    sql(
        "replication-role",
        "Write without triggers and checks of keys.",
        Refused,
        &["set session_replication_role = replica"],
    ),
    sql(
        "insert-for-victim",
        "Add a row that is the victim's.",
        Nothing,
        &[
            "begin",
            "insert into {table} ({columns}, tenant_id) select {columns}, '{id}' from {table} limit 1",
        ],
    ),
    sql(
        "insert-for-nobody",
        "Add a row that is nobody's.",
        Nothing,
        &["begin", "insert into {table} ({columns}, tenant_id) select {columns}, null from {table} limit 1"],
    ),
    sql(
        "insert-default-tenant",
        "Add a row whose tenant is overridden.",
        Nothing,
        &[
            "begin",
            "insert into {table} ({columns}, tenant_id) overriding user value select {columns}, '{id}' from {table} limit 1",
        ],
    ),
    sql(
        "give-away",
        "Give the attacker's rows to the victim.",
        Nothing,
        &["begin", "update {table} set tenant_id = '{id}'"],
    ),
    sql(
        "take-over",
        "Take the victim's rows over.",
        Nothing,
        &["begin", "update {table} set tenant_id = insula.current_tenant() where tenant_id = '{id}'"],
    ),
    sql(
        "update-by-tenant",
        "Change the victim's rows.",
        Nothing,
        &["begin", "update {table} set {column} = 'x' where tenant_id = '{id}' returning *"],
    ),
    sql(
        "update-from-self",
        "Change rows by a join of the table with itself.",
        Nothing,
        &[
            "begin",
            "update {table} a set {column} = b.{column} from {table} b where b.tenant_id = '{id}' returning b.*",
        ],
    ),
    sql(
        "delete-by-tenant",
        "Delete the victim's rows.",
        Nothing,
        &["begin", "delete from {table} where tenant_id = '{id}' returning *"],
    ),
    sql(
        "delete-using",
        "Delete by a join.",
        Nothing,
        &["begin", "delete from {table} a using {table} b where b.tenant_id = '{id}' returning b.*"],
    ),
    sql(
        "delete-in-with",
        "Delete within another statement.",
        Nothing,
        &[
            "begin",
            "with gone as (delete from {table} where tenant_id = '{id}' returning *) select * from gone",
        ],
    ),
    sql(
        "merge",
        "Change rows by MERGE.",
        Nothing,
        &[
            "begin",
            "merge into {table} t using (select '{id}'::uuid as id) v on t.tenant_id = v.id when matched then delete",
        ],
    ),
    sql(
        "delete-copy-views",
        "Delete by the views that COPY uses.",
        Nothing,
        &["begin", "delete from insula_copy.{table}"],
    ),
    sql(
        "truncate",
        "Empty the table, which would be everybody's.",
        crate::attempt::Want::GoesOn,
        &["begin", "truncate {table} cascade"],
    ),
    sql(
        "truncate-of-schema",
        "Empty the victim's table.",
        crate::attempt::Want::GoesOn,
        &["begin", "truncate {schema}.{table} cascade"],
    ),
    sql(
        "lock-table",
        "Lock the table for everybody.",
        crate::attempt::Want::GoesOn,
        &["begin", "lock table {table} in access exclusive mode"],
    ),
    sql(
        "lock-table-in-do",
        "Lock the table for everybody in a DO block.",
        crate::attempt::Want::GoesOn,
        &["begin", "do $$ begin execute 'lock table {table}'; end $$"],
    ),
    sql(
        "lock-of-schema",
        "Lock the victim's table.",
        crate::attempt::Want::GoesOn,
        &["begin", "lock table {schema}.{table}"],
    ),
    sql(
        "lock-all-rows",
        "Lock every row that is seen.",
        crate::attempt::Want::GoesOn,
        &["begin", "select from (select 1 from {table} for update) x"],
    ),
    sql(
        "lock-by-trigger",
        "Wait for a lock of the table that stops everybody.",
        crate::attempt::Want::GoesOn,
        &[
            "begin",
            "create trigger t before insert on {table} for each row execute function suppress_redundant_updates_trigger()",
        ],
    ),
    sql(
        "lock-by-rule",
        "Wait for a lock of the table by a rule.",
        crate::attempt::Want::GoesOn,
        &["begin", "create rule r as on insert to {table} do nothing"],
    ),
    sql(
        "lock-by-vacuum",
        "Rewrite the table.",
        crate::attempt::Want::GoesOn,
        &["vacuum full {table}", "cluster {table}", "reindex table {table}"],
    ),
    sql(
        "analyze",
        "Gather the statistics of the whole table.",
        Unseen,
        &[
            "analyze {table}",
            "select most_common_vals::text from pg_catalog.pg_stats where tablename = '{table}'",
        ],
    ),
];

pub(super) const KEYS: &[Attempt] = &[
    sql(
        "unique-probe",
        "Learn by a collision that the victim has a key.",
        Without("23505"),
        &["begin", "insert into {table} ({columns}) values {values}"],
    ),
    sql(
        "unique-probe-upsert",
        "Read the victim's row by an upsert of its key.",
        Unseen,
        &[
            "begin",
            "insert into {table} ({columns}) values {values} on conflict ({key}) do update set {column} = {table}.{column} || 'x' returning {column}",
        ],
    ),
    sql(
        "upsert-do-nothing",
        "Learn by a skipped upsert that the victim has a key.",
        NotSaying("skipped"),
        &[
            "begin",
            "with i as (insert into {table} ({columns}) values {values} on conflict do nothing returning 1) select case when count(*) = 0 then 'skipped' else 'added' end from i",
        ],
    ),
    sql(
        "upsert-with-tenant",
        "Write the victim's row by an upsert that names its tenant.",
        Nothing,
        &[
            "begin",
            "insert into {table} ({columns}, tenant_id) select v.*, '{id}'::uuid from (values {values}) v on conflict ({key}, tenant_id) do update set {column} = 'x' returning *",
        ],
    ),
    sql(
        "upsert-crafted-target",
        "Lead the front's tenant column astray by a comment.",
        Unseen,
        &[
            "begin",
            "insert into {table} ({columns}) values {values} on conflict (/* ( */ {key}, tenant_id) where tenant_id = '{id}' do update set {column} = 'x', tenant_id = '{id}' returning *",
        ],
    ),
    sql(
        "upsert-on-constraint",
        "Name the key's constraint instead of its columns.",
        Unseen,
        &[
            "begin",
            "insert into {table} ({columns}) values {values} on conflict on constraint {table}_pkey do update set {column} = excluded.{column} || {table}.{column} returning *",
        ],
    ),
    sql(
        "foreign-key-probe",
        "Refer to a key that only the victim has.",
        Nothing,
        &["begin", "update {child} set {child_column} = {their_key} where {child_column} is not null"],
    ),
    sql(
        "foreign-key-probe-deferred",
        "Refer to a key that only the victim has, with checks put off.",
        Nothing,
        &[
            "begin; set constraints all deferred",
            "update {child} set {child_column} = {their_key} where {child_column} is not null",
        ],
    ),
    sql(
        "key-by-where",
        "Find the victim's key.",
        Nothing,
        &["select 1 from {table} where {key} = {their_key}"],
    ),
    sql(
        "key-delete",
        "Delete by the victim's key, with what refers to it.",
        Nothing,
        &["begin", "delete from {table} where {key} = {their_key} returning *"],
    ),
    sql(
        "key-update",
        "Change by the victim's key.",
        Nothing,
        &["begin", "update {table} set {column} = 'x' where {key} = {their_key} returning *"],
    ),
    sql(
        "key-swap",
        "Take the victim's key for a row of the attacker's.",
        Without("23505"),
        &["begin", "update {table} set {key} = {their_key} where {key} = (select min({key}) from {table})"],
    ),
    sql(
        "grouping-crafted",
        "Lead the front's grouping astray by names.",
        Unseen,
        &[
            "select c.* from {table} \"c\"\".x\" group by {key}",
            "select \"c;select\".* from {table} as \"c;select\" group by \"c;select\".{key}",
            "select * from {table} as U&\"\\0063\" group by {key}",
            "select é.* from {table} é group by é.{key}",
            "with insula_copy as (select 1 as id) select * from insula_copy group by insula_copy.id",
        ],
    ),
];

pub(super) const FILTERS: &[Attempt] = &[
    sql(
        "leaky-function",
        "Filter by a cheap function that tells what it is given.",
        Unseen,
        &[
            "create function pg_temp.leak(text) returns bool language plpgsql cost 0.0000001 as $$ begin raise notice 'leak %', $1; return true; end $$",
            "select 1 from {table} where pg_temp.leak({column})",
        ],
    ),
    sql(
        "leaky-leakproof",
        "Filter by a function that claims not to leak.",
        Unseen,
        &[
            "create function pg_temp.leak(text) returns bool language plpgsql leakproof cost 0.0000001 as $$ begin raise notice 'leak %', $1; return true; end $$",
            "select 1 from {table} where pg_temp.leak({column})",
        ],
    ),
    sql(
        "leaky-operator",
        "Filter by an operator that tells what it is given.",
        Unseen,
        &[
            "begin",
            "create function {mine}.eq(text, text) returns bool language plpgsql cost 0.0000001 as $$ begin raise notice '% %', $1, $2; return true; end $$",
            "create operator {mine}.=== (leftarg = text, rightarg = text, function = {mine}.eq)",
            "select 1 from {table} where {column} operator({mine}.===) 'x'",
        ],
    ),
    sql(
        "leaky-cast",
        "Filter by a cast that tells what it cannot read.",
        Unseen,
        &["select 1 from {table} where {column}::int > 0"],
    ),
    sql(
        "leaky-cast-to-xml",
        "Filter by a cast that quotes what it cannot read.",
        Unseen,
        &[
            "select 1 from {table} where xmlparse(document {column}) is not null",
            "select 1 from {table} where {column}::json is null",
            "select 1 from {table} where {column}::date > now()",
        ],
    ),
    sql(
        "leaky-division",
        "Learn from a division by zero what the victim has.",
        Without("22012"),
        &["select 1 / (case when {column} like '{prefix}%' then 0 else 1 end) from {table}"],
    ),
    sql(
        "leaky-division-in-filter",
        "Learn from a division by zero before the policy.",
        Without("22012"),
        &["select 1 from {table} where 1 / (case when {column} like '{prefix}%' then 0 else 1 end) = 1"],
    ),
    sql(
        "leaky-order",
        "Learn from an error while sorting.",
        Without("22012"),
        &["select 1 from {table} order by 1 / (case when {column} like '{prefix}%' then 0 else 1 end)"],
    ),
    sql(
        "leaky-join",
        "Learn from an error in a join's condition.",
        Without("22012"),
        &[
            "select 1 from (values (1)) v join {table} t on 1 / (case when t.{column} like '{prefix}%' then 0 else 1 end) = 1",
        ],
    ),
    sql(
        "leaky-regexp",
        "Learn from a pattern that comes from rows.",
        Unseen,
        &["select 1 from {table} where 'x' ~ ('(' || {column})"],
    ),
    sql(
        "leaky-raise",
        "Tell the rows of a subquery in a message.",
        Unseen,
        &[
            "do $$ declare r record; begin for r in select * from {table} loop raise notice '%', r; end loop; end $$",
        ],
    ),
    sql(
        "leaky-explain",
        "See rows in a plan that was run.",
        Unseen,
        &["explain (analyze, verbose, buffers) select * from {table} where {column} like '{prefix}%'"],
    ),
    sql(
        "leaky-debug",
        "See rows in what the server tells for debugging.",
        Unseen,
        &[
            "set client_min_messages = debug5; set debug_print_plan = on; set log_executor_stats = on",
            "select * from {table}",
        ],
    ),
    sql(
        "leaky-exclude",
        "See rows in the detail of an error.",
        Unseen,
        &["select 1 from {table} where (select {column} from {schema}.{table} limit 1)::uuid is null"],
    ),
    sql(
        "filter-count",
        "Count the rows that begin as the victim's does.",
        Nothing,
        &["select 1 from {table} where {column} like '{prefix}%'"],
    ),
    sql(
        "filter-index-only",
        "Read from the index alone.",
        Nothing,
        &[
            "set enable_seqscan = off; set enable_bitmapscan = off",
            "select {column} from {table} where {column} >= '{prefix}' and {column} like '{prefix}%'",
        ],
    ),
    sql(
        "filter-parallel",
        "Read with workers, which begin without the session's state.",
        Nothing,
        &[
            "set max_parallel_workers_per_gather = 4; set parallel_setup_cost = 0; set parallel_tuple_cost = 0; set min_parallel_table_scan_size = 0; set force_parallel_mode = on",
            "set parallel_leader_participation = off",
            "select {column} from {table} where {column} like '{prefix}%'",
        ],
    ),
];
