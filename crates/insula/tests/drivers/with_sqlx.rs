//! What sqlx does besides sending statements: its cache of prepared statements,
//! types that it looks up by name, its pool, transactions that are rolled back
//! when they are next used, COPY, its listener and its locks. Nothing
//! of its macros, which ask a server when the program is compiled.

use std::time::Duration;

use futures_util::TryStreamExt;
use futures_util::future::join_all;
use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::postgres::{
    PgAdvisoryLock, PgArgumentBuffer, PgConnectOptions, PgHasArrayType, PgListener, PgPool, PgPoolOptions,
    PgTypeInfo, PgValueRef,
};
use sqlx::{
    Column, ConnectOptions, Connection, Decode, Either, Encode, Error, Executor, PgConnection, Postgres, Row,
    SqlSafeStr, Statement, Type, TypeInfo, query, query_as, query_scalar, raw_sql,
};
use tokio::time::timeout;

/// Runs through all of it; a line for each thing.
pub async fn behaves(url: &str) -> String {
    let mut connection = connect(url).await;
    let lines = [
        ends("cached", cached(url)).await,
        ends("unnamed", unnamed(&mut connection)).await,
        ends("types", types(&mut connection)).await,
        ends("failures", failures(&mut connection)).await,
        ends("left early", left_early(&mut connection)).await,
        ends("copied", copies(&mut connection)).await,
        ends("transactions", transactions(url)).await,
        ends("options", options(url)).await,
        ends("a pool", pool(url)).await,
        ends("notifications", notifications(url)).await,
        ends("locks", locks(url)).await,
        ends("given up", given_up(url)).await,
    ];
    lines.concat()
}

/// How long one thing may take.
const PATIENCE: Duration = Duration::from_secs(20);

async fn ends(what: &str, said: impl Future<Output = String>) -> String {
    let said = timeout(PATIENCE, said).await.unwrap_or_else(|_| "does not end".to_owned());
    format!("{what}: {said}\n")
}

/// A statement that two sessions have prepared, whose column gets another type.
pub struct Prepared(Vec<PgConnection>);

const CHANGING: &str = "select n from things where key = 'changing'";

impl Prepared {
    pub async fn new(url: &str) -> Self {
        let mut prepared = vec![connect(url).await, connect(url).await];
        for connection in &mut prepared {
            assert_eq!(query_scalar::<_, i32>(CHANGING).fetch_one(connection).await.unwrap(), 1);
        }
        Self(prepared)
    }

    /// What they say to it at the third attempt, and when their caches are empty.
    pub async fn changed(mut self) -> String {
        let (mut kept, mut anew) = (Vec::new(), Vec::new());
        for connection in &mut self.0 {
            for _ in 0..2 {
                let _ = number(connection).await;
            }
            kept.push(number(connection).await);
            connection.clear_cached_statements().await.unwrap();
            anew.push(number(connection).await);
        }
        format!("sqlx: {}, anew {}\n", kept.join(" "), anew.join(" "))
    }
}

async fn number(connection: &mut PgConnection) -> String {
    let got = query_scalar::<_, i64>(CHANGING).fetch_one(connection).await;
    got.map_or_else(|error| code(&error), |number| number.to_string())
}

async fn connect(url: &str) -> PgConnection {
    PgConnection::connect(url).await.unwrap()
}

/// Few sessions: those of a pool share backends with all others.
async fn pool_of(url: &str, connections: u32) -> PgPool {
    PgPoolOptions::new().max_connections(connections).connect(url).await.unwrap()
}

fn code(error: &Error) -> String {
    let code = error.as_database_error().and_then(|error| error.code());
    code.map_or_else(|| error.to_string(), String::from)
}

/// A `Sync` alone, and nothing before it.
async fn goes_on(connection: &mut PgConnection) -> &'static str {
    connection.ping().await.unwrap();
    query_scalar::<_, String>("select 'on' || $1").bind("ward").fetch_one(connection).await.unwrap();
    "goes on"
}

/// More texts than the cache has room for: each takes another's place.
async fn cached(url: &str) -> String {
    const TEXTS: [&str; 5] = [
        "select $1::int4 + 0",
        "select $1::int4 + 1",
        "select $1::int4 + 2",
        "select $1::int4 + 3",
        "select $1::int4 + 4",
    ];
    let options: PgConnectOptions = url.parse().unwrap();
    let options = options.statement_cache_capacity(3);
    let mut connections = [options.connect().await.unwrap(), options.connect().await.unwrap()];
    let mut right = true;
    for round in 0..40 {
        let connection = &mut connections[round % 2];
        for (text, more) in
            TEXTS.into_iter().cycle().skip(round % 3).zip((0..5).cycle().skip(round % 3)).take(4)
        {
            right &=
                query_scalar::<_, i32>(text).bind(40).fetch_one(&mut *connection).await.unwrap() == 40 + more;
        }
    }
    let kept = connections[0].cached_statements_size();
    connections[0].clear_cached_statements().await.unwrap();
    let cleared = connections[0].cached_statements_size();
    let again: i32 = query_scalar(TEXTS[4]).bind(40).fetch_one(&mut connections[0]).await.unwrap();
    format!("{right} {kept} {cleared} {again}")
}

async fn unnamed(connection: &mut PgConnection) -> String {
    let mut sums = Vec::new();
    for n in 0..3 {
        let sum = query_as::<_, (i32, String)>("select $1 + 1, $2").bind(n).bind("x").persistent(false);
        sums.push(sum.fetch_one(&mut *connection).await.unwrap().0);
    }
    let rows = raw_sql("select 1; select 'x' union all select 'y'; select").fetch_all(&mut *connection).await;
    let none = query("").execute(&mut *connection).await.unwrap().rows_affected();
    format!("{sums:?} {} {none}", rows.unwrap().len())
}

/// A type of the app schema's, which sqlx looks up by its name.
#[derive(Debug, PartialEq)]
struct Kind(String);

impl Type<Postgres> for Kind {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_name("thing_kind")
    }
}

impl PgHasArrayType for Kind {
    fn array_type_info() -> PgTypeInfo {
        PgTypeInfo::array_of("thing_kind")
    }
}

impl Encode<'_, Postgres> for Kind {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        Encode::<Postgres>::encode_by_ref(&self.0, buffer)
    }
}

impl Decode<'_, Postgres> for Kind {
    fn decode(value: PgValueRef<'_>) -> Result<Self, BoxDynError> {
        Ok(Self(value.as_str()?.to_owned()))
    }
}

async fn types(connection: &mut PgConnection) -> String {
    let insert = "insert into things (key, kind, kinds, tags, data) values ($1, $2, $3, $4, $5)
                  returning kind, kinds, tags, data";
    let statement = connection.prepare(insert.into_sql_str()).await.unwrap();
    let columns: Vec<_> = statement.columns().iter().map(|column| column.type_info().name()).collect();
    let columns = format!("{columns:?}");
    let kind = |name: &str| Kind(name.to_owned());
    let row = query(insert)
        .bind("sqlx-types")
        .bind(kind("large"))
        .bind(vec![kind("small"), kind("large")])
        .bind(vec!["a".to_owned(), "b, c".to_owned()])
        .bind(&[0_u8, 255][..])
        .fetch_one(&mut *connection)
        .await
        .unwrap();
    let (one, several): (Kind, Vec<Kind>) = (row.get(0), row.get(1));
    let (tags, data): (Vec<String>, Vec<u8>) = (row.get(2), row.get(3));
    let found = query("select from things where kind = $1 and key like 'sqlx-types'").bind(kind("large"));
    let found = found.fetch_all(&mut *connection).await.unwrap().len();
    let gone = query("delete from things where key = 'sqlx-types'").execute(connection).await.unwrap();
    let several: Vec<_> = several.into_iter().map(|kind| kind.0).collect();
    format!("{columns} {} {several:?} {tags:?} {data:?} {found} {}", one.0, gone.rows_affected())
}

async fn failures(connection: &mut PgConnection) -> String {
    let mut codes = Vec::new();
    for (text, n) in [("select 1 / $1::int4", 0), ("selec $1::int4", 0), ("select $1::int4 from nothing", 0)]
    {
        codes.push(code(&query(text).bind(n).execute(&mut *connection).await.unwrap_err()));
    }
    let insert = "insert into counters values ($1, 1)";
    query(insert).bind("sqlx-twice").execute(&mut *connection).await.unwrap();
    let twice = query(insert).bind("sqlx-twice").execute(&mut *connection).await.unwrap_err();
    let is_unique = twice.as_database_error().unwrap().is_unique_violation();
    query("delete from counters where key = 'sqlx-twice'").execute(&mut *connection).await.unwrap();
    format!("{codes:?} {is_unique} {}", goes_on(connection).await)
}

async fn left_early(connection: &mut PgConnection) -> String {
    let mut rows =
        query_scalar::<_, i32>("select n from generate_series($1, 200000) n").bind(1).fetch(&mut *connection);
    let first = rows.try_next().await.unwrap().unwrap();
    drop(rows);
    format!("{first} {}", goes_on(connection).await)
}

async fn copies(connection: &mut PgConnection) -> String {
    let copy = "copy things (key, n) from stdin (format csv)";
    let mut sink = connection.copy_in_raw(copy).await.unwrap();
    for n in 0..500 {
        sink.send(format!("sqlx-{n},{n}\n").into_bytes()).await.unwrap();
    }
    let into = sink.finish().await.unwrap();
    let out = "copy (select n from things where key like 'sqlx-%' order by n) to stdout";
    let out: Vec<_> = connection.copy_out_raw(out).await.unwrap().try_collect().await.unwrap();
    let wanted: String = (0..500).map(|n| format!("{n}\n")).collect();
    let same = out.concat() == wanted.as_bytes();
    // One that is given up, and one that the server refuses.
    let mut sink = connection.copy_in_raw(copy).await.unwrap();
    sink.send(&b"sqlx-half,1\n"[..]).await.unwrap();
    sink.abort("not that").await.unwrap();
    let mut sink = connection.copy_in_raw(copy).await.unwrap();
    sink.send(&b"sqlx-1,1\n"[..]).await.unwrap();
    let again = code(&sink.finish().await.unwrap_err());
    let gone = query("delete from things where key like 'sqlx-%'").execute(connection).await.unwrap();
    format!("{into} in, {same} out, {again}, {} in all", gone.rows_affected())
}

async fn transactions(url: &str) -> String {
    let mut connection = connect(url).await;
    let mut outer = connection.begin_with("begin isolation level repeatable read").await.unwrap();
    let insert = "insert into counters values ($1, 1)";
    query(insert).bind("sqlx").execute(&mut *outer).await.unwrap();
    let mut inner = outer.begin().await.unwrap();
    let twice = code(&query(insert).bind("sqlx").execute(&mut *inner).await.unwrap_err());
    let after = code(&query("select 1").execute(&mut *inner).await.unwrap_err());
    inner.rollback().await.unwrap();
    let level: String = query_scalar("show transaction_isolation").fetch_one(&mut *outer).await.unwrap();
    outer.commit().await.unwrap();
    // Dropped, it is rolled back before what comes next.
    let mut dropped = connection.begin().await.unwrap();
    query(insert).bind("sqlx-dropped").execute(&mut *dropped).await.unwrap();
    drop(dropped);
    let left = query_scalar::<_, String>("select key from counters where key like 'sqlx%'");
    let left = left.fetch_all(&mut connection).await.unwrap();
    format!("{twice} {after} {level} {left:?}")
}

/// What is set as the session begins.
async fn options(url: &str) -> String {
    let options: PgConnectOptions = url.parse().unwrap();
    let options =
        options.application_name("sqlx's").options([("statement_timeout", "50ms"), ("work_mem", "5MB")]);
    let mut connection = options.connect().await.unwrap();
    let set = "select current_setting('application_name'), current_setting('work_mem'), current_setting('timezone')";
    let set: (String, String, String) = query_as(set).fetch_one(&mut connection).await.unwrap();
    let late = code(&query("select pg_sleep($1)").bind(60.0).execute(&mut connection).await.unwrap_err());
    format!("{set:?} {late} {}", goes_on(&mut connection).await)
}

async fn pool(url: &str) -> String {
    let settings = PgPoolOptions::new().max_connections(4).after_connect(|connection, _| {
        Box::pin(async move { connection.execute("set timezone = 'Asia/Tokyo'").await.map(drop) })
    });
    let pool = settings.connect(url).await.unwrap();
    let counts = (0..40_i64).map(|n| {
        let pool = &pool;
        async move {
            let add = "insert into counters values ('sqlx-pool', $1)
                       on conflict (key) do update set n = counters.n + $1";
            query(add).bind(n).execute(pool).await.unwrap();
            let zone: String =
                query_scalar("select current_setting('timezone')").fetch_one(pool).await.unwrap();
            zone == "Asia/Tokyo"
        }
    });
    let all_set = join_all(counts).await.into_iter().all(|right| right);
    let sum: i64 =
        query_scalar("select n from counters where key = 'sqlx-pool'").fetch_one(&pool).await.unwrap();
    // One that comes back within a transaction is rolled back.
    let mut lent = pool.acquire().await.unwrap();
    let mut dropped = lent.begin().await.unwrap();
    query("delete from counters").execute(&mut *dropped).await.unwrap();
    drop(dropped);
    drop(lent);
    pool.close().await;
    let mut connection = connect(url).await;
    let gone = query("delete from counters where key = 'sqlx-pool'").execute(&mut connection).await.unwrap();
    format!("{all_set} {sum} {}", gone.rows_affected())
}

async fn notifications(url: &str) -> String {
    let pool = pool_of(url, 2).await;
    let mut listener = PgListener::connect_with(&pool).await.unwrap();
    listener.listen_all(["sqlx_news", "Sqlx weather"]).await.unwrap();
    let mut heard = Vec::new();
    for channel in ["sqlx_news", "Sqlx weather", "sqlx_nothing", "sqlx_news"] {
        query("select pg_notify($1, 'today')").bind(channel).execute(&pool).await.unwrap();
        if channel != "sqlx_nothing" {
            let news = listener.recv().await.unwrap();
            heard.push(format!("{} {}", news.channel(), news.payload()));
        }
    }
    listener.unlisten("sqlx_news").await.unwrap();
    let on: i32 = query_scalar("select 1").fetch_one(&mut listener).await.unwrap();
    // It listens to nothing any more before it goes back.
    drop(listener);
    pool.close().await;
    format!("{heard:?} {on}")
}

async fn locks(url: &str) -> String {
    let (holder, waiter) = (connect(url).await, connect(url).await);
    let lock = PgAdvisoryLock::new("drivers");
    let held = match lock.acquire(holder).await {
        Ok(held) => held,
        Err(error) => return code(&error),
    };
    let Either::Right(waiter) = lock.try_acquire(waiter).await.unwrap() else { panic!("it is held") };
    held.release_now().await.unwrap();
    let is_free = matches!(lock.try_acquire(waiter).await.unwrap(), Either::Left(_));
    is_free.to_string()
}

/// Its connection is of no use any more; `nothing_goes_on` sees to the statement.
async fn given_up(url: &str) -> String {
    let mut connection = connect(url).await;
    let sleeping = query("select pg_sleep($1)").bind(60.0).execute(&mut connection);
    let ended = timeout(Duration::from_millis(50), sleeping).await;
    connection.close_hard().await.unwrap();
    ended.is_err().to_string()
}
