//! The server itself, extensions and foreign servers, large objects, and plans
//! that outlive the role for which they were made.

use crate::attempt::Want::{Itself, Nothing, Refused, Unseen};
use crate::attempt::{Attempt, sql};

pub(super) const SERVER: &[Attempt] = &[
    sql(
        "alter-system",
        "Change the server's settings.",
        Refused,
        &["alter system set log_statement = 'all'"],
    ),
    sql(
        "reload",
        "Have the server read its settings again.",
        Refused,
        &["select pg_catalog.pg_reload_conf()"],
    ),
    sql(
        "switch-log",
        "Have the server begin another file of its log.",
        Refused,
        &["select pg_catalog.pg_switch_wal()"],
    ),
    sql(
        "replication-slot",
        "Read all changes by a slot.",
        Refused,
        &["select pg_catalog.pg_create_logical_replication_slot('insula_attack', 'pgoutput')"],
    ),
    sql(
        "replication-slot-physical",
        "Read the whole server by a slot.",
        Refused,
        &["select pg_catalog.pg_create_physical_replication_slot('insula_attack')"],
    ),
    sql(
        "publication",
        "Publish all tables.",
        Refused,
        &["begin", "create publication insula_attack for all tables"],
    ),
    sql(
        "subscription",
        "Have the server connect to an address.",
        Refused,
        &[
            "create subscription insula_attack connection 'host=127.0.0.1' publication x with (connect = false)",
        ],
    ),
    sql("tablespace", "Put files elsewhere.", Refused, &["create tablespace insula_attack location '/tmp'"]),
    sql("load", "Load a library.", Refused, &["load 'auto_explain'"]),
    sql("checkpoint", "Have the server write everything.", Refused, &["checkpoint"]),
    sql("backup", "Begin a backup of the server.", Refused, &["select pg_catalog.pg_backup_start('x')"]),
    sql("promote", "Promote the server.", Refused, &["select pg_catalog.pg_promote()"]),
    sql(
        "reset-statistics",
        "Forget the statistics of all.",
        Refused,
        &["select pg_catalog.pg_stat_reset_shared('bgwriter')"],
    ),
    sql(
        "import-collations",
        "Add to the catalogs.",
        Refused,
        &["select pg_catalog.pg_import_system_collations('pg_catalog')"],
    ),
    sql(
        "language",
        "Add a language that reaches the system.",
        Refused,
        &["begin", "create language plpython3u"],
    ),
    sql(
        "collation-in-catalog",
        "Add a collation to PostgreSQL's schema.",
        Refused,
        &["begin", "create collation pg_catalog.insula_attack (locale = 'C')"],
    ),
    sql("settings-of-superuser", "Set what is the superuser's.", Refused, &["set log_statement = 'none'"]),
    sql("temp-file-limit", "Set the bound on temporary files off.", Refused, &["set temp_file_limit = -1"]),
    sql("zero-damaged-pages", "Have the server wipe pages.", Refused, &["set zero_damaged_pages = on"]),
    sql("parameters-of-log", "Read settings that name files.", Refused, &["show config_file"]),
];

pub(super) const EXTENSIONS: &[Attempt] = &[
    sql(
        "extension-dblink",
        "Add dblink, to connect back as somebody else.",
        Refused,
        &["begin", "create extension dblink"],
    ),
    sql(
        "extension-fdw",
        "Add foreign tables of other servers.",
        Refused,
        &["begin", "create extension postgres_fdw"],
    ),
    sql(
        "extension-file-fdw",
        "Add foreign tables of files.",
        Refused,
        &["begin", "create extension file_fdw"],
    ),
    sql(
        "extension-adminpack",
        "Add functions that write files.",
        Refused,
        &["begin", "create extension adminpack"],
    ),
    sql(
        "extension-pageinspect",
        "Add functions that read pages.",
        Refused,
        &["begin", "create extension pageinspect"],
    ),
    sql(
        "extension-pgrowlocks",
        "Add a function that reads row locks.",
        Refused,
        &["begin", "create extension pgrowlocks"],
    ),
    sql(
        "extension-statements",
        "Add the statements of all.",
        Refused,
        &["begin", "create extension pg_stat_statements"],
    ),
    sql(
        "dblink-call",
        "Call dblink where it is there.",
        Refused,
        &[
            "select * from dblink('dbname={database} user={role}', 'select {column} from {table}') as t(x text)",
        ],
    ),
    sql(
        "foreign-data-wrapper",
        "Make a wrapper for foreign data.",
        Refused,
        &["begin", "create foreign data wrapper insula_attack"],
    ),
    sql(
        "foreign-server",
        "Name a foreign server.",
        Refused,
        &[
            "begin",
            "create server insula_attack foreign data wrapper postgres_fdw options (host '127.0.0.1')",
        ],
    ),
    sql(
        "user-mapping",
        "Connect to a foreign server as the victim.",
        Refused,
        &["begin", "create user mapping for {role} server insula_attack options (user '{role}')"],
    ),
    sql(
        "import-foreign-schema",
        "Take over tables of another server.",
        Refused,
        &["begin", "import foreign schema {schema} from server insula_attack into {mine}"],
    ),
];

pub(super) const LARGE_OBJECTS: &[Attempt] = &[
    sql(
        "large-object-list",
        "Read all large objects.",
        Unseen,
        &["select pg_catalog.lo_get(oid) from pg_catalog.pg_largeobject_metadata"],
    ),
    sql(
        "large-object-raw",
        "Read large objects past their functions.",
        Refused,
        &["select data from pg_catalog.pg_largeobject"],
    ),
    sql(
        "large-object-import",
        "Read a file as a large object.",
        Refused,
        &["begin", "select pg_catalog.lo_import('/etc/passwd')"],
    ),
    sql(
        "large-object-export",
        "Write a large object to a file.",
        Refused,
        &["begin", "select pg_catalog.lo_export(1, '/tmp/insula-attack')"],
    ),
    sql(
        "large-object-of-others",
        "Change large objects of others.",
        Refused,
        &["begin", "select pg_catalog.lo_unlink(4000000000)"],
    ),
    sql(
        "large-object-grant",
        "Give a large object of others away.",
        Refused,
        &["begin", "alter large object 4000000000 owner to {own_role}"],
    ),
    sql(
        "large-object-compat",
        "Read others' large objects without checks.",
        Refused,
        &["set lo_compat_privileges = on"],
    ),
];

pub(super) const PLANS: &[Attempt] = &[
    sql(
        "plan-across-roles",
        "Prepare a statement and run it as another role.",
        Unseen,
        &["prepare p as select * from {table}", "set role {role}", "execute p", "reset role", "execute p"],
    ),
    sql(
        "plan-across-row-security",
        "Prepare a statement and run it with row security off.",
        Unseen,
        &["prepare p as select * from {table}", "execute p", "set row_security = off", "execute p"],
    ),
    sql(
        "plan-across-path",
        "Prepare a statement and run it on another path.",
        Unseen,
        &[
            "prepare p as select * from {table}",
            "execute p",
            "set search_path = {schema}, app, public",
            "execute p",
        ],
    ),
    sql(
        "plan-generic",
        "Run a plan made for anybody.",
        Nothing,
        &[
            "set plan_cache_mode = force_generic_plan",
            "prepare p(uuid) as select * from {table} where tenant_id = $1",
            "execute p('{id}')",
        ],
    ),
    sql(
        "plan-of-function",
        "Run the plan of a function as another role.",
        Unseen,
        &[
            "create function pg_temp.f() returns setof text language plpgsql as $$ begin return query select {column}::text from {table}; end $$",
            "select * from pg_temp.f()",
            "set role {role}",
            "select * from pg_temp.f()",
        ],
    ),
    sql(
        "plan-of-prepared-role",
        "Prepare a change of role and run it.",
        Itself,
        &[
            "prepare p as select pg_catalog.set_config('role', '{role}', false)",
            "explain (analyze, costs off, timing off, summary off) execute p",
            "deallocate p",
            "rollback",
            "reset role",
            "select current_user",
        ],
    ),
    sql(
        "plan-of-guessed-names",
        "Run statements that others may have prepared.",
        Refused,
        &["execute insula_1"],
    ),
    sql(
        "plan-in-cursor",
        "Go on with a cursor as another role.",
        Unseen,
        &[
            "begin",
            "declare c cursor for select * from {table}",
            "savepoint s",
            "set role {role}",
            "rollback to s",
            "fetch all from c",
        ],
    ),
    sql(
        "plan-of-inlined-function",
        "Have the planner run a function early.",
        Unseen,
        &[
            "select 1 from {table} where {column} = (select {column} from {schema}.{table} limit 1)",
            "explain verbose select * from {table} where {column} = (select max({column}) from {schema}.{table})",
        ],
    ),
];
