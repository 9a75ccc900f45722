//! COPY and files, what the catalogs and statistics tell, and other sessions.

use crate::attempt::Want::{NotSaying, Nothing, Refused, Unseen};
use crate::attempt::{Attempt, sql};

pub(super) const COPY: &[Attempt] = &[
    sql(
        "copy-out",
        "Copy the table out.",
        Unseen,
        &["copy {table} to stdout", "copy {table} to stdout (format binary)"],
    ),
    sql(
        "copy-query-out",
        "Copy a query out.",
        Unseen,
        &["copy (select * from {table}) to stdout", "copy (table {schema}.{table}) to stdout csv header"],
    ),
    sql(
        "copy-out-of-view",
        "Copy the views out that COPY in uses.",
        Unseen,
        &["copy insula_copy.{table} to stdout", "copy (select * from insula_copy.{table}) to stdout"],
    ),
    sql(
        "copy-returning",
        "Copy out what a statement changes.",
        Nothing,
        &["begin", "copy (delete from {table} where tenant_id = '{id}' returning *) to stdout"],
    ),
    sql(
        "copy-in-for-victim",
        "Copy rows in that are the victim's.",
        Nothing,
        &["begin", "copy {table} ({key}, {column}, tenant_id) from stdin;{their_key}\tx\t{id}\n"],
    ),
    sql(
        "copy-in-where",
        "Learn about rows by the condition of a COPY.",
        Unseen,
        &[
            "begin",
            "copy {table} ({columns}) from stdin where (select {column} from {schema}.{table} limit 1)::int = 1",
        ],
    ),
    sql(
        "copy-in-frozen",
        "Copy rows in past the checks.",
        Nothing,
        &["begin", "copy {table} ({columns}) from stdin with (freeze)"],
    ),
    sql("copy-to-program", "Copy to a program on the server.", Refused, &["copy {table} to program 'cat'"]),
    sql(
        "copy-from-program",
        "Copy from a program on the server.",
        Refused,
        &["create temporary table f (l text)", "copy f from program 'id'"],
    ),
    sql(
        "copy-to-file",
        "Copy to a file on the server.",
        Refused,
        &["copy (select 1) to '/tmp/insula-attack'"],
    ),
    sql(
        "copy-from-file",
        "Copy from a file on the server.",
        Refused,
        &["create temporary table f (l text)", "copy f from '/etc/passwd'"],
    ),
    sql(
        "read-file",
        "Read a file of the server's.",
        Refused,
        &["select pg_catalog.pg_read_file('postgresql.conf')"],
    ),
    sql(
        "read-binary-file",
        "Read a file of the server's as bytes.",
        Refused,
        &["select pg_catalog.pg_read_binary_file('base/1/1259')"],
    ),
    sql("list-files", "List the files of the server.", Refused, &["select pg_catalog.pg_ls_dir('base')"]),
    sql("list-log", "List the server's log files.", Refused, &["select * from pg_catalog.pg_ls_logdir()"]),
    sql(
        "stat-file",
        "Look at a file of the server's.",
        Refused,
        &["select * from pg_catalog.pg_stat_file('base')"],
    ),
    sql(
        "current-logfile",
        "Ask where the server's log is.",
        Refused,
        &["select pg_catalog.pg_current_logfile()"],
    ),
    sql(
        "hba-rules",
        "Read who is let in by the server.",
        Refused,
        &["select * from pg_catalog.pg_hba_file_rules"],
    ),
    sql(
        "file-settings",
        "Read the server's settings files.",
        Refused,
        &["select * from pg_catalog.pg_file_settings"],
    ),
];

pub(super) const CATALOGS: &[Attempt] = &[
    sql(
        "column-statistics",
        "Read the values that statistics keep.",
        Unseen,
        &["select * from pg_catalog.pg_stats where tablename = '{table}'"],
    ),
    sql(
        "statistics-raw",
        "Read statistics past their view.",
        Refused,
        &["select * from pg_catalog.pg_statistic"],
    ),
    sql(
        "statistics-extended",
        "Read extended statistics.",
        Unseen,
        &["select * from pg_catalog.pg_stats_ext", "select * from pg_catalog.pg_stats_ext_exprs"],
    ),
    sql(
        "statistics-of-tables",
        "Read how much others write.",
        Unseen,
        &[
            "select * from pg_catalog.pg_stat_all_tables where relname = '{table}' and schemaname = '{schema}'",
        ],
    ),
    sql(
        "estimate-of-prefix",
        "Read the planner's estimate of the victim's value.",
        Unseen,
        &["explain (format json) select * from {table} where {column} like '{prefix}%'"],
    ),
    sql(
        "passwords",
        "Read the passwords of roles.",
        Refused,
        &["select rolname, rolpassword from pg_catalog.pg_authid"],
    ),
    sql(
        "passwords-in-shadow",
        "Read the passwords of users.",
        Refused,
        &["select usename, passwd from pg_catalog.pg_shadow"],
    ),
    sql(
        "passwords-in-roles",
        "Read the passwords of roles in the view for all.",
        NotSaying("SCRAM"),
        &["select rolpassword from pg_catalog.pg_roles"],
    ),
    sql(
        "user-mappings",
        "Read others' passwords of foreign servers.",
        Nothing,
        &["select umoptions from pg_catalog.pg_user_mappings"],
    ),
    sql(
        "user-mapping-raw",
        "Read foreign passwords past their view.",
        Refused,
        &["select * from pg_catalog.pg_user_mapping"],
    ),
    sql(
        "subscriptions",
        "Read the connection strings of subscriptions.",
        Refused,
        &["select subconninfo from pg_catalog.pg_subscription"],
    ),
    sql(
        "catalog-written",
        "Write to the catalogs.",
        Refused,
        &["begin", "update pg_catalog.pg_class set relrowsecurity = false where relname = '{table}'"],
    ),
    sql(
        "catalog-written-roles",
        "Write to the roles.",
        Refused,
        &["begin", "update pg_catalog.pg_authid set rolsuper = true where rolname = '{own_role}'"],
    ),
    sql("catalog-mods", "Allow changes of system tables.", Refused, &["set allow_system_table_mods = on"]),
    sql(
        "function-texts",
        "Read what functions, views and defaults hold.",
        Unseen,
        &[
            "select prosrc from pg_catalog.pg_proc where pronamespace <> 'pg_catalog'::regnamespace",
            "select definition from pg_catalog.pg_views where schemaname not in ('pg_catalog', 'information_schema')",
            "select pg_catalog.pg_get_expr(adbin, adrelid) from pg_catalog.pg_attrdef",
        ],
    ),
    sql(
        "comments",
        "Read what is written on things.",
        Unseen,
        &[
            "select description from pg_catalog.pg_description where objoid > 16384",
            "select description from pg_catalog.pg_shdescription",
            "select label from pg_catalog.pg_shseclabel",
        ],
    ),
    sql(
        "role-settings",
        "Read the settings of roles and databases.",
        Unseen,
        &["select setconfig from pg_catalog.pg_db_role_setting", "select rolconfig from pg_catalog.pg_roles"],
    ),
    sql(
        "partition-bounds",
        "Read values from the bounds of partitions.",
        Unseen,
        &[
            "select pg_catalog.pg_get_expr(relpartbound, oid) from pg_catalog.pg_class where relpartbound is not null",
            "select pg_catalog.pg_get_indexdef(indexrelid), pg_catalog.pg_get_expr(indpred, indrelid) from pg_catalog.pg_index where indpred is not null",
        ],
    ),
    sql(
        "sequence-restart",
        "Set the application's sequence back.",
        Refused,
        &["begin", "alter sequence {sequence} restart"],
    ),
    sql(
        "sequence-owner",
        "Take the application's sequence over.",
        Refused,
        &["begin", "alter sequence {sequence} owner to {own_role}"],
    ),
    sql(
        "sequence-read",
        "Read from the sequence how much others add.",
        Unseen,
        &["select last_value from {sequence}", "select * from pg_catalog.pg_sequences"],
    ),
];

pub(super) const SESSIONS: &[Attempt] = &[
    sql(
        "activity",
        "Read what others' sessions do and what they call themselves.",
        Unseen,
        &["select * from pg_catalog.pg_stat_activity"],
    ),
    sql(
        "activity-function",
        "Read others' sessions by the function behind the view.",
        Unseen,
        &[
            "select * from pg_catalog.pg_stat_get_activity(null)",
            "select * from pg_catalog.pg_stat_get_activity({pid})",
        ],
    ),
    sql(
        "activity-by-number",
        "Read others' sessions one by one.",
        Unseen,
        &[
            "select pg_catalog.pg_stat_get_backend_activity(i), pg_catalog.pg_stat_get_backend_userid(i) from generate_series(1, 100) i",
        ],
    ),
    sql(
        "activity-addresses",
        "Read where others' clients are.",
        Nothing,
        &[
            "select client_addr from pg_catalog.pg_stat_activity where usename = '{role}' and client_addr is not null",
        ],
    ),
    sql(
        "statements-of-all",
        "Read the statements of all.",
        Unseen,
        &["select query from pg_stat_statements", "select * from public.pg_stat_statements"],
    ),
    sql(
        "cancel-by-pid",
        "Cancel the victim by the number of its process.",
        NotSaying("t"),
        &["select pg_catalog.pg_cancel_backend({pid})"],
    ),
    sql(
        "terminate-by-pid",
        "End the victim by the number of its process.",
        NotSaying("t"),
        &["select pg_catalog.pg_terminate_backend({pid})"],
    ),
    sql(
        "terminate-by-pid-waiting",
        "End the victim and wait for it.",
        NotSaying("t"),
        &["select pg_catalog.pg_terminate_backend({pid}, 10)"],
    ),
    sql(
        "cancel-by-role",
        "Cancel all sessions of the victim.",
        Nothing,
        &[
            "select pid from pg_catalog.pg_stat_activity where usename = '{role}' and pg_catalog.pg_cancel_backend(pid)",
        ],
    ),
    sql(
        "terminate-all",
        "End all sessions but one's own.",
        Nothing,
        &[
            "select pid from pg_catalog.pg_stat_activity where usename <> current_user and pg_catalog.pg_terminate_backend(pid)",
        ],
    ),
    sql(
        "memory-of-others",
        "Make the victim's process tell its memory.",
        Refused,
        &["select pg_catalog.pg_log_backend_memory_contexts({pid})"],
    ),
    sql(
        "locks-of-others",
        "Read who waits for what.",
        Unseen,
        &[
            "select * from pg_catalog.pg_locks l",
            "select pg_catalog.pg_blocking_pids({pid})",
            "select pg_catalog.pg_safe_snapshot_blocking_pids({pid})",
        ],
    ),
    sql(
        "prepared-of-others",
        "Read others' prepared statements and cursors.",
        Unseen,
        &["select * from pg_catalog.pg_prepared_statements", "select * from pg_catalog.pg_cursors"],
    ),
    sql(
        "prepared-transactions",
        "Read and end others' prepared transactions.",
        Nothing,
        &["select gid from pg_catalog.pg_prepared_xacts"],
    ),
    sql(
        "prepare-transaction",
        "Keep locks beyond the session's end.",
        Refused,
        &["begin", "prepare transaction 'insula-attack'"],
    ),
    sql(
        "channels",
        "Read which channels others listen to.",
        Unseen,
        &["select pg_catalog.pg_listening_channels()"],
    ),
    sql(
        "progress",
        "Read what others' long statements do.",
        Unseen,
        &[
            "select * from pg_catalog.pg_stat_progress_copy",
            "select * from pg_catalog.pg_stat_progress_create_index",
            "select * from pg_catalog.pg_stat_progress_vacuum",
        ],
    ),
    sql(
        "snapshot-of-others",
        "Read with another session's snapshot.",
        Refused,
        &["begin isolation level repeatable read", "set transaction snapshot '00000003-0000001B-1'"],
    ),
];
