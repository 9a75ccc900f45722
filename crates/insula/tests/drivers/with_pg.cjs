// What node-postgres does besides sending statements: named statements, cursors
// and streams of rows, COPY as streams, pools, time-outs.
//
// It gets a postgres:// URL, and prints a line for each thing.

const { Client, Pool, Query } = require("pg");
const Cursor = require("pg-cursor");
const QueryStream = require("pg-query-stream");
const { from: copyFrom, to: copyTo } = require("pg-copy-streams");
const { Readable } = require("node:stream");
const { pipeline } = require("node:stream/promises");

// It uses itself what it calls deprecated, when it cancels.
process.noDeprecation = true;

const [url] = process.argv.slice(2);
const say = (what, value) => console.log(`${what}: ${JSON.stringify(value)}`);
const failure = (promise) => promise.then(() => null, (error) => error.code);
const connect = async (options) => {
  const client = new Client({ connectionString: url, ...options });
  await client.connect();
  return client;
};

async function named(first, second) {
  const seen = [];
  for (let n = 0; n < 10; n += 1) {
    for (const [client, factor] of [[first, 10], [second, 100]]) {
      const query = { name: "same", text: `select $1::int * ${factor} as n`, values: [n] };
      seen.push((await client.query(query)).rows[0].n === n * factor);
    }
  }
  const other = await first.query({ name: "same", text: "select 1", values: [] }).catch((error) => error.message);
  say("named statements", [seen.every(Boolean), other]);
  const failed = [
    await failure(first.query({ name: "broken", text: "selec" })),
    await failure(first.query({ name: "broken", text: "select 'mended' as word" })),
    await failure(first.query("select $1::int", ["x"])),
  ];
  say("statements that fail", [failed, (await first.query("select 1 as one; select 2 as two")).map((r) => r.rows[0])]);
  const rows = await first.query({ text: "select 1::int8, null, '{a,b}'::text[], '[1]'::jsonb", rowMode: "array", binary: false });
  say("values", rows.rows);
}

async function cursors(client) {
  const cursor = client.query(new Cursor("select n from generate_series(1, $1::int) n", [25]));
  const counts = [];
  for (let rows = await cursor.read(10); rows.length > 0; rows = await cursor.read(10)) counts.push(rows.length);
  await cursor.close();
  const left = client.query(new Cursor("select n from generate_series(1, 1000) n"));
  await left.read(3);
  await left.close();
  say("cursors", [counts, (await client.query("select 'goes on' as word")).rows[0].word]);
  let sum = 0;
  const stream = client.query(new QueryStream("select n from generate_series(1, $1::int) n", [1000], { batchSize: 17 }));
  for await (const row of stream) sum += row.n;
  let seen = 0;
  for await (const row of client.query(new QueryStream("select n from generate_series(1, 10000) n"))) {
    if (row.n === 5) break;
    seen += 1;
  }
  const broken = client.query(new QueryStream("select 10 / (5 - n) as n from generate_series(1, 10) n", [], { batchSize: 2 }));
  const error = await (async () => { for await (const _ of broken); })().catch((error) => error.code);
  say("streams", [sum, seen, error, (await client.query("select 'goes on' as word")).rows[0].word]);
}

async function copies(client) {
  const lines = Array.from({ length: 2000 }, (_, n) => `node-${n}\t${n}\n`);
  const copy = "copy things (key, n) from stdin";
  const into = client.query(copyFrom(copy));
  await pipeline(Readable.from(lines), into);
  const out = client.query(copyTo("copy (select key, n from things where key like 'node-%' order by n) to stdout"));
  let text = "";
  for await (const piece of out) text += piece;
  const again = await failure(pipeline(Readable.from(lines), client.query(copyFrom(copy))));
  const gone = (await client.query("delete from things where key like 'node-%'")).rowCount;
  say("copied", [into.rowCount, text === lines.join(""), again, gone]);
}

async function pools() {
  const pool = new Pool({ connectionString: url, max: 4, idleTimeoutMillis: 100, maxUses: 20 });
  const work = async (n) => {
    const client = await pool.connect();
    try {
      await client.query("begin");
      await client.query("select set_config('app.n', $1, true)", [String(n)]);
      const { rows } = await client.query({ name: "mine", text: "select current_setting('app.n') as n" });
      await client.query(n % 5 === 0 ? "rollback" : "commit");
      return rows[0].n === String(n);
    } finally {
      client.release();
    }
  };
  const all = await Promise.all(Array.from({ length: 150 }, (_, n) => work(n)));
  say("a pool", [all.length, all.every(Boolean)]);
  await pool.end();
}

async function timeouts() {
  const server = await connect({ statement_timeout: 100, application_name: "node" });
  const late = await failure(server.query("select pg_sleep(60)"));
  say("time-outs of the server", [late, (await server.query("show application_name")).rows[0].application_name]);
  await server.end();
  const client = await connect({ query_timeout: 1000 });
  const message = await client.query("select pg_sleep(60)").catch((error) => error.message);
  // It is not cancelled: who does not wait for it leaves.
  await client.end();
  say("time-outs of the client", message);
}

async function cancels() {
  const client = await connect();
  const asleep = new Promise((resolve) => client.once("notice", (notice) => resolve(notice.message)));
  const query = new Query("select sleep_aloud(60)");
  const ended = new Promise((resolve) => query.once("error", (error) => resolve(error.code)).once("end", resolve));
  client.query(query);
  const notice = await asleep;
  new Client({ connectionString: url }).cancel(client, query);
  say("cancelled", [notice, await ended, (await client.query("select 'goes on' as word")).rows[0].word]);
  await client.end();
}

async function notifications(listener, speaker) {
  try {
    const heard = new Promise((resolve) => listener.once("notification", resolve));
    await listener.query("listen node_news");
    await speaker.query("select pg_notify('node_news', 'today')");
    const { channel, payload } = await heard;
    say("notifications", [channel, payload]);
  } catch (error) {
    say("notifications", [error.code, error.hint]);
  }
}

async function main() {
  const [first, second] = await Promise.all([connect(), connect()]);
  await named(first, second);
  await cursors(first);
  await copies(first);
  await pools();
  await timeouts();
  await cancels();
  await notifications(first, second);
  await Promise.all([first.end(), second.end()]);
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
