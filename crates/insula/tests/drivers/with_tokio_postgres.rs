//! What tokio-postgres does besides sending statements: questions sent without
//! waiting for answers, portals, COPY, cancelling, types that it asks about,
//! notices and notifications.

use bytes::Bytes;
use futures_util::future::{join_all, poll_fn};
use futures_util::{SinkExt, StreamExt, TryStreamExt, pin_mut};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio_postgres::binary_copy::{BinaryCopyInWriter, BinaryCopyOutStream};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;
use tokio_postgres::{
    AsyncMessage, Client, Error, IsolationLevel, NoTls, Row, SimpleQueryMessage, Statement,
};

/// Runs through all of it; a line for each thing.
pub async fn behaves(url: &str) -> String {
    let client = insula_testkit::connect(url).await;
    let other = insula_testkit::connect(url).await;
    let lines = [
        pipelined(&client, &other).await,
        types(&client).await,
        portals(url).await,
        copies(&client).await,
        left_early(&client).await,
        cancelled(url).await,
        transactions(url).await,
        notifications(url).await,
    ];
    lines.iter().map(|line| format!("{line}\n")).collect()
}

/// A statement that two sessions have prepared, whose column gets another type.
pub struct Prepared(Vec<(Client, Statement)>);

const CHANGING: &str = "select n from things where key = 'changing'";

impl Prepared {
    pub async fn new(url: &str) -> Self {
        let mut prepared = Vec::new();
        for _ in 0..2 {
            let client = insula_testkit::connect(url).await;
            let statement = client.prepare(CHANGING).await.unwrap();
            assert_eq!(client.query_one(&statement, &[]).await.unwrap().get::<_, i32>(0), 1);
            prepared.push((client, statement));
        }
        Self(prepared)
    }

    /// What they say to it at the third attempt, and when they prepare it anew.
    pub async fn changed(self) -> String {
        let (mut kept, mut anew) = (Vec::new(), Vec::new());
        for _ in 0..3 {
            (kept, anew) = (Vec::new(), Vec::new());
            for (client, statement) in &self.0 {
                let got = client.query_one(statement, &[]).await;
                kept.push(got.map_or_else(|error| sqlstate(&error).to_owned(), |row| format!("{row:?}")));
                let got = client.query_one(CHANGING, &[]).await;
                let number = |row: Row| row.get::<_, i64>(0).to_string();
                anew.push(got.map_or_else(|error| sqlstate(&error).to_owned(), number));
            }
        }
        format!("tokio_postgres: {}, anew {}\n", kept.join(" "), anew.join(" "))
    }
}

fn sqlstate(error: &Error) -> &str {
    error.code().unwrap().code()
}

/// A session, and what the server says in it without being asked.
async fn hearing(url: &str) -> (Client, UnboundedReceiver<String>) {
    let (client, mut connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    let (sender, heard) = unbounded_channel();
    tokio::spawn(async move {
        while let Some(Ok(message)) = poll_fn(|context| connection.poll_message(context)).await {
            let _ = sender.send(match message {
                AsyncMessage::Notice(notice) => notice.message().to_owned(),
                AsyncMessage::Notification(news) => format!("{} {}", news.channel(), news.payload()),
                _ => continue,
            });
        }
    });
    (client, heard)
}

async fn pipelined(client: &Client, other: &Client) -> String {
    let double = client.prepare("select $1::int4 * 2").await.unwrap();
    let triple = other.prepare("select $1::int4 * 3").await.unwrap();
    let asked = (0..500_i32).map(|n| {
        let (client, statement, by) = if n % 2 == 0 { (client, &double, 2) } else { (other, &triple, 3) };
        async move {
            // Some fail, each for itself.
            if n % 50 == 0 {
                let error = client.query_one("select 1 / $1::int4", &[&0]).await.unwrap_err();
                return error.code() == Some(&SqlState::DIVISION_BY_ZERO);
            }
            client.query_one(statement, &[&n]).await.unwrap().get::<_, i32>(0) == n * by
        }
    });
    let answers = join_all(asked).await;
    format!("pipelined: {} answers, {}", answers.len(), answers.into_iter().all(|right| right))
}

async fn types(client: &Client) -> String {
    // It asks the catalogs about what is not built in.
    let text = "select kind, kinds, tags, body from things where kind = $1";
    let statement = client.prepare(text).await.unwrap();
    let parameters: Vec<_> = statement.params().iter().map(Type::name).collect();
    let columns: Vec<_> = statement.columns().iter().map(|column| column.type_().name()).collect();
    let line = format!("types: {parameters:?} {columns:?}");
    drop(statement);
    let several = "select 1; select 'x' union all select 'y' order by 1";
    let answers = client.simple_query(several).await.unwrap();
    let rows = answers.iter().filter(|answer| matches!(answer, SimpleQueryMessage::Row(_))).count();
    format!("{line}, {rows} rows")
}

async fn portals(url: &str) -> String {
    let mut client = insula_testkit::connect(url).await;
    let transaction = client.transaction().await.unwrap();
    let all = transaction.prepare("select n from generate_series(1, $1::int4) n").await.unwrap();
    let first = transaction.bind(&all, &[&25_i32]).await.unwrap();
    let second = transaction.bind(&all, &[&7_i32]).await.unwrap();
    let mut counts = Vec::new();
    let fetches = [(&first, 10), (&second, 5), (&first, 10), (&second, 0), (&first, 10), (&first, 10)];
    for (portal, rows) in fetches {
        counts.push(transaction.query_portal(portal, rows).await.unwrap().len());
    }
    transaction.commit().await.unwrap();
    format!("portals: {counts:?}")
}

async fn copies(client: &Client) -> String {
    let sink = client.copy_in("copy things (key, n) from stdin (format binary)").await.unwrap();
    let writer = BinaryCopyInWriter::new(sink, &[Type::TEXT, Type::INT4]);
    pin_mut!(writer);
    for n in 0..1000_i32 {
        writer.as_mut().write(&[&format!("rust-{n}"), &n]).await.unwrap();
    }
    let into = writer.finish().await.unwrap();
    let out = "copy (select key, n from things where key like 'rust-%' order by n) to stdout (format binary)";
    let rows = BinaryCopyOutStream::new(client.copy_out(out).await.unwrap(), &[Type::TEXT, Type::INT4]);
    let rows: Vec<_> = rows.try_collect().await.unwrap();
    let is_same = |(row, n): (&tokio_postgres::binary_copy::BinaryCopyOutRow, i32)| {
        row.get::<String>(0) == format!("rust-{n}") && row.get::<i32>(1) == n
    };
    let same = rows.iter().zip(0..).all(is_same);
    // One that is given up, and one that the server refuses.
    let copy = "copy things (key, n) from stdin";
    let mut sink = Box::pin(client.copy_in::<_, Bytes>(copy).await.unwrap());
    sink.send(Bytes::from("rust-half\t1\n")).await.unwrap();
    drop(sink);
    let mut sink = Box::pin(client.copy_in::<_, Bytes>(copy).await.unwrap());
    sink.send(Bytes::from("rust-1\t1\n")).await.unwrap();
    let again = sink.as_mut().finish().await.unwrap_err();
    let gone = client.execute("delete from things where key like 'rust-%'", &[]).await.unwrap();
    format!("copied: {into} in, {} out, {same}, {}, {gone} in all", rows.len(), sqlstate(&again))
}

async fn left_early(client: &Client) -> String {
    let nothing: [i32; 0] = [];
    let all = "select n from generate_series(1, 200000) n";
    let mut rows = Box::pin(client.query_raw(all, nothing).await.unwrap());
    let first: i32 = rows.next().await.unwrap().unwrap().get(0);
    drop(rows);
    let next: i32 = client.query_one("select 42", &[]).await.unwrap().get(0);
    format!("left early: {first} {next}")
}

async fn cancelled(url: &str) -> String {
    let (client, mut heard) = hearing(url).await;
    let token = client.cancel_token();
    let cancel = async {
        let notice = heard.recv().await.unwrap();
        token.cancel_query(NoTls).await.unwrap();
        notice
    };
    let (ended, notice) = tokio::join!(client.batch_execute("select sleep_aloud(60)"), cancel);
    let words: String = client.query_one("select 'goes on'", &[]).await.unwrap().get(0);
    format!("cancelled: {notice} {} {words}", sqlstate(&ended.unwrap_err()))
}

async fn transactions(url: &str) -> String {
    let mut client = insula_testkit::connect(url).await;
    let begin = client.build_transaction().isolation_level(IsolationLevel::RepeatableRead);
    let mut transaction = begin.start().await.unwrap();
    let insert = "insert into counters values ('rust', 1)";
    transaction.execute(insert, &[]).await.unwrap();
    let inner = transaction.savepoint("within").await.unwrap();
    let twice = inner.execute(insert, &[]).await.unwrap_err();
    inner.rollback().await.unwrap();
    let level: String = transaction.query_one("show transaction_isolation", &[]).await.unwrap().get(0);
    transaction.commit().await.unwrap();
    // Dropped, it is rolled back.
    let dropped = client.transaction().await.unwrap();
    dropped.execute("insert into counters values ('rust-dropped', 1)", &[]).await.unwrap();
    drop(dropped);
    let left = client.query("select key from counters where key like 'rust%'", &[]).await.unwrap();
    let left: Vec<String> = left.iter().map(|row| row.get(0)).collect();
    format!("transactions: {} {level} {left:?}", sqlstate(&twice))
}

async fn notifications(url: &str) -> String {
    let (client, mut heard) = hearing(url).await;
    if let Err(error) = client.batch_execute("listen rust_news").await {
        return format!(
            "notifications: {} {}",
            sqlstate(&error),
            error.as_db_error().unwrap().hint().unwrap()
        );
    }
    let speaker = insula_testkit::connect(url).await;
    speaker.batch_execute("notify rust_news, 'today'").await.unwrap();
    format!("notifications: {}", heard.recv().await.unwrap())
}
