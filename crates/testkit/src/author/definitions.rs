//! What there is in a plain database, as far as whoever writes statements for
//! it at random must know.

use tokio_postgres::Client;

/// What there is in the schema `public` of a plain database.
#[derive(Debug)]
pub struct Definitions {
    /// Names of tables, and how they are partitioned (`r`, `l`, `h`), if they are.
    pub tables: Vec<(String, Option<String>)>,
    /// Table, column, type.
    pub columns: Vec<(String, String, String)>,
    /// Table, constraint, kind.
    pub constraints: Vec<(String, String, String)>,
    /// Table and the single integer column of a key.
    pub keys: Vec<(String, String)>,
    /// Indexes that belong to no key.
    pub indexes: Vec<String>,
    /// Parent and partition.
    pub partitions: Vec<(String, String)>,
    /// Views.
    pub views: Vec<String>,
    /// Enumerated types.
    pub enums: Vec<String>,
    /// Domains.
    pub domains: Vec<String>,
    /// Composite types.
    pub composites: Vec<String>,
    /// Sequences.
    pub sequences: Vec<String>,
    /// Functions of triggers.
    pub functions: Vec<String>,
    /// Functions that are called, with the types of their arguments.
    pub routines: Vec<String>,
    /// Table and trigger.
    pub triggers: Vec<(String, String)>,
}

impl Definitions {
    /// Reads them.
    ///
    /// # Panics
    /// Where the server does not answer.
    pub async fn read(client: &Client) -> Self {
        let rows = async |query: &str| -> Vec<Vec<String>> {
            let rows = client.query(query, &[]).await.unwrap();
            rows.iter()
                .map(|row| {
                    (0..row.len()).map(|n| row.get::<_, Option<String>>(n).unwrap_or_default()).collect()
                })
                .collect()
        };
        let two = |all: Vec<Vec<String>>| -> Vec<(String, String)> {
            all.into_iter().map(|row| (row[0].clone(), row[1].clone())).collect()
        };
        let three = |all: Vec<Vec<String>>| -> Vec<(String, String, String)> {
            all.into_iter().map(|row| (row[0].clone(), row[1].clone(), row[2].clone())).collect()
        };
        let one =
            |all: Vec<Vec<String>>| -> Vec<String> { all.into_iter().map(|row| row[0].clone()).collect() };
        let relations = |kinds: &str| {
            format!(
                "select quote_ident(relname) from pg_class where relnamespace = 'public'::regnamespace and relkind in ({kinds}) order by 1"
            )
        };
        let tables = rows(
            "select quote_ident(c.relname), p.partstrat::text from pg_class c left join pg_partitioned_table p on p.partrelid = c.oid
             where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p') order by 1",
        )
        .await;
        Self {
            tables: tables.into_iter().map(|row| (row[0].clone(), Some(row[1].clone()).filter(|s| !s.is_empty()))).collect(),
            columns: three(rows(
                "select quote_ident(c.relname), quote_ident(a.attname), format_type(a.atttypid, a.atttypmod)
                 from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
                 where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p') order by 1, a.attnum").await),
            constraints: three(rows(
                "select quote_ident(c.relname), quote_ident(x.conname), x.contype::text from pg_constraint x join pg_class c on c.oid = x.conrelid
                 where c.relnamespace = 'public'::regnamespace and x.conparentid = 0 and x.coninhcount = 0 order by 1, 2").await),
            keys: two(rows(
                "select quote_ident(c.relname), quote_ident(a.attname) from pg_constraint x join pg_class c on c.oid = x.conrelid
                 join pg_attribute a on a.attrelid = c.oid and a.attnum = x.conkey[1] and a.atttypid = 'int'::regtype
                 where c.relnamespace = 'public'::regnamespace and x.contype in ('p', 'u') and cardinality(x.conkey) = 1
                   and not x.condeferrable order by 1, 2").await),
            indexes: one(rows(
                "select quote_ident(c.relname) from pg_class c join pg_index i on i.indexrelid = c.oid
                 where c.relnamespace = 'public'::regnamespace and not c.relispartition
                   and not exists (select from pg_constraint x where x.conindid = c.oid and x.contype in ('p', 'u')) order by 1").await),
            partitions: two(rows("select i.inhparent::regclass::text, i.inhrelid::regclass::text from pg_inherits i join pg_class c on c.oid = i.inhrelid where c.relkind in ('r', 'p') order by 1, 2").await),
            views: one(rows(&relations("'v'")).await),
            enums: one(rows("select quote_ident(typname) from pg_type where typnamespace = 'public'::regnamespace and typtype = 'e' order by 1").await),
            domains: one(rows("select quote_ident(typname) from pg_type where typnamespace = 'public'::regnamespace and typtype = 'd' order by 1").await),
            composites: one(rows(&relations("'c'")).await),
            sequences: one(rows(&relations("'S'")).await),
            functions: one(rows("select quote_ident(proname) from pg_proc where pronamespace = 'public'::regnamespace and prorettype = 'trigger'::regtype order by 1").await),
            routines: one(rows("select format('%I(%s)', proname, pg_get_function_identity_arguments(oid)) from pg_proc where pronamespace = 'public'::regnamespace and prokind = 'f' and prorettype <> 'trigger'::regtype order by 1").await),
            triggers: two(rows("select quote_ident(c.relname), quote_ident(t.tgname) from pg_trigger t join pg_class c on c.oid = t.tgrelid where c.relnamespace = 'public'::regnamespace and not t.tgisinternal and t.tgparentid = 0 and t.tgname !~ '^insula' order by 1, 2").await),
        }
    }
}
