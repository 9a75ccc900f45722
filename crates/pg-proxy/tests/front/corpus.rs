//! Writes the corpus of the fuzz targets anew, from what real drivers say to the
//! front. Run by hand:
//! `cargo nextest run -p insula-pg-proxy -E 'test(corpus::)' --run-ignored only`.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use bytes::BytesMut;
use futures_util::future::join_all;
use futures_util::{SinkExt, TryStreamExt, pin_mut};
use insula_pg_wire::frontend::{Parse, parse_query, tag};
use insula_pg_wire::startup::read_packet;
use insula_pg_wire::{Message, read_message};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use tokio_postgres::Client;

use crate::support::{Tenant, World, connect, psql_program};

/// Of one file: what comes behind says little more.
const BYTES_MAX: usize = 3_000;

/// What was said on one connection, by the client and by the front.
type Said = Arc<Mutex<[Vec<u8>; 2]>>;

/// Connections to the front, which are recorded.
async fn recorder(world: &World) -> (u16, Arc<Mutex<Vec<Said>>>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let (port, front) = (listener.local_addr().unwrap().port(), world.address);
    let recorded = Arc::new(Mutex::new(Vec::new()));
    let all = Arc::clone(&recorded);
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            let said = Said::default();
            all.lock().unwrap().push(Arc::clone(&said));
            let far = TcpStream::connect(front).await.unwrap();
            let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
            tokio::spawn(record(near_in, far_out, Arc::clone(&said), 0));
            tokio::spawn(record(far_in, near_out, said, 1));
        }
    });
    (port, recorded)
}

async fn record(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, said: Said, side: usize) {
    let mut buffer = vec![0; 4096];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        said.lock().unwrap()[side].extend_from_slice(&buffer[..count]);
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
    let _ = to.shutdown().await;
}

/// Messages without the client's first packet and its proofs, and the packet.
fn taken_apart(client: &[u8]) -> (Vec<u8>, Vec<Message>) {
    let mut rest = BytesMut::from(client);
    read_packet(&mut rest).unwrap().expect("a packet");
    let packet = client[..client.len() - rest.len()].to_vec();
    let messages = std::iter::from_fn(|| read_message(&mut rest, 1 << 20).unwrap());
    (packet, messages.filter(|message| message.tag != tag::PASSWORD).collect())
}

fn bytes_of(messages: &[Message]) -> Vec<u8> {
    let mut out = BytesMut::new();
    for message in messages {
        let before = out.len();
        message.put(&mut out);
        if out.len() > BYTES_MAX {
            out.truncate(before);
            break;
        }
    }
    out.to_vec()
}

fn write(target: &str, name: &str, data: &[u8]) {
    let folder: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join(name), data).unwrap();
}

async fn by_tokio_postgres(client: &mut Client) {
    client.batch_execute("create table if not exists t (a int, b text); begin").await.unwrap();
    let insert = client.prepare("insert into t (a, b) values ($1, $2) returning a").await.unwrap();
    let (client_now, insert) = (&*client, &insert);
    let inserts = (0..3_i32).map(|number| async move { client_now.query(insert, &[&number, &"x"]).await });
    join_all(inserts).await;
    client.batch_execute("commit").await.unwrap();
    let sink = client.copy_in::<_, bytes::Bytes>("copy t (a, b) from stdin").await.unwrap();
    pin_mut!(sink);
    sink.send("7\tseven\n".into()).await.unwrap();
    sink.finish().await.unwrap();
    let rows = client.copy_out("copy t to stdout").await.unwrap();
    let _: Vec<bytes::Bytes> = rows.try_collect().await.unwrap();
    client.query("select 1/0", &[]).await.unwrap_err();
    let transaction = client.transaction().await.unwrap();
    transaction.batch_execute("set local app.a = '1'; select set_config('app.b', '2', false)").await.unwrap();
    transaction.rollback().await.unwrap();
}

const PSYCOPG: &str = "
import sys, psycopg
with psycopg.connect(sys.argv[1], prepare_threshold=0) as connection:
    with connection.pipeline():
        for number in range(3):
            connection.execute('select %s::int', [number])
        connection.execute('show insula.tenant')
    with connection.cursor('held') as cursor:
        cursor.execute('select generate_series(1, 3)')
        cursor.fetchall()
    with connection.cursor().copy('copy t (a, b) from stdin') as copy:
        copy.write_row((8, 'eight'))
    connection.commit()
    try:
        with connection.pipeline():
            connection.execute('select 1')
            connection.execute('select no_such')
            connection.execute('select 2')
    except psycopg.Error:
        connection.rollback()
    connection.execute('deallocate all')
";

const ASYNCPG: &str = "
import sys, asyncio, asyncpg
async def main():
    connection = await asyncpg.connect(sys.argv[1], ssl=False)
    await connection.fetch('select $1::int', 1)
    async with connection.transaction():
        await connection.executemany('insert into t (a) values ($1)', [(1,), (2,)])
    await connection.execute('listen news; unlisten *')
    await connection.reset()
    await connection.close()
asyncio.run(main())
";

const PSQL: &str = "begin; savepoint a; select 1; rollback to a; commit;
set application_name = 'x'; show application_name;
create temporary table u (a int); \\copy u from stdin
1
\\.
prepare p as select $$a;b$$; execute p; deallocate p;
select E'it''s \\' \"', U&'\\0061', /* a /* comment */ */ 1 -- end
;
grant select on t to public;
discard all;
";

async fn by_program(program: &Path, arguments: &[&str], input: &str) {
    let mut child =
        Command::new(program).args(arguments).stdin(std::process::Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).await.unwrap();
    child.wait().await.unwrap();
}

async fn all_drivers(world: &World, tenant: &Tenant, port: u16) {
    let mut config = tokio_postgres::Config::new();
    config.host("127.0.0.1").port(port).user("acme").password(&tenant.secret).dbname("app");
    by_tokio_postgres(&mut connect(&config).await.unwrap()).await;
    let url = world.url(tenant).replace(&format!(":{}/", world.address.port()), &format!(":{port}/"));
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.venv/bin/python");
    let plain = format!("{url}?sslmode=disable&gssencmode=disable&max_protocol_version=latest");
    by_program(&python, &["-c", PSYCOPG, &plain], "").await;
    by_program(&python, &["-c", ASYNCPG, &url], "").await;
    by_program(&psql_program(), &["-X", &format!("{url}?sslmode=disable&gssencmode=disable")], PSQL).await;
}

#[tokio::test]
#[ignore = "it writes files"]
async fn what_drivers_say_becomes_the_corpus() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let (port, recorded) = recorder(&world).await;
    all_drivers(&world, &tenant, port).await;
    let recorded: Vec<_> = recorded.lock().unwrap().iter().map(|said| said.lock().unwrap().clone()).collect();
    let sessions: Vec<_> = recorded.iter().map(|[client, _]| taken_apart(client)).collect();
    for (number, ((packet, messages), [_, server])) in sessions.iter().zip(&recorded).enumerate() {
        write("startup", &format!("session-{number}"), packet);
        let client = bytes_of(messages);
        write("stream", &format!("client-{number}"), &[&[7], &client[..]].concat());
        write(
            "stream",
            &format!("server-{number}"),
            &[&[5], &server[..server.len().min(BYTES_MAX)]].concat(),
        );
        let other = bytes_of(&sessions[(number + 1) % sessions.len()].1);
        let first = u16::try_from(client.len()).unwrap();
        let data = [&(number as u64).to_le_bytes()[..], &first.to_le_bytes(), &client, &other].concat();
        write("session", &format!("drivers-{number}"), &data);
        let texts = messages.iter().filter_map(|message| match message.tag {
            tag::QUERY => parse_query(&message.body).ok(),
            tag::PARSE => Parse::from_body(&message.body).ok().map(|parse| parse.query),
            _ => None,
        });
        for (text, query) in texts.enumerate() {
            let choice = u8::try_from((number + 4 * text) % 256).unwrap();
            write("statements", &format!("text-{number}-{text}"), &[&[choice], query].concat());
        }
    }
    write("startup", "tls", b"\0\0\0\x08\x04\xd2\x16\x2f");
    write("startup", "gss", b"\0\0\0\x08\x04\xd2\x16\x30");
    write("startup", "cancel", b"\0\0\0\x10\x04\xd2\x16\x2e\0\0\0\x07\x01\x02\x03\x04");
    let long = [&b"\0\0\0\x2c\x04\xd2\x16\x2e\0\0\0\x07"[..], &[9; 32]].concat();
    write("startup", "cancel-of-32-bytes", &long);
    write("startup", "options", b"\0\0\0\x20\0\x03\x27\x0fuser\0a\0_pq_.shiny\0on\0\0");
}
