// What Postgres.js does besides sending statements: it prepares everything and
// sends without waiting for answers; cursors, COPY as streams, its own pool.
//
// It gets a postgres:// URL, and prints a line for each thing.

const postgres = require("postgres");
const { Readable } = require("node:stream");
const { pipeline } = require("node:stream/promises");

const [url] = process.argv.slice(2);
const say = (what, value) => console.log(`${what}: ${JSON.stringify(value)}`);
const failure = (promise) => promise.then(() => null, (error) => error.code);
const quiet = { onnotice: () => {}, connection: { application_name: "postgres.js" } };

async function statements(sql) {
  const numbers = Array.from({ length: 300 }, (_, n) => n);
  const answers = await Promise.all(numbers.map((n) => sql`select ${n}::int * 2 as n`));
  say("pipelined", answers.every(([row], n) => row.n === n * 2));
  const mixed = await Promise.all(
    numbers.slice(0, 60).map((n) => (n % 3 === 0 ? failure(sql`select 1 / ${0}::int`) : sql`select ${n}::int as n`)),
  );
  say("some fail", mixed.every((row, n) => (n % 3 === 0 ? row === "22012" : row[0].n === n)));
  const rows = [{ key: "js-1", n: 1, tags: ["a", "b"] }, { key: "js-2", n: 2, tags: [] }];
  const inserted = await sql`insert into things ${sql(rows, "key", "n", "tags")} returning key, n, tags, kinds`;
  await sql`update things set body = ${sql.json({ ä: [1, null] })}, kind = ${"large"}, kinds = ${["small", "large"]} where key = ${"js-1"}`;
  const [found] = await sql`select body, kind, kinds, price from things where key in ${sql(["js-1"])}`;
  say("values", [inserted, found]);
  const described = await sql`select key, n from things where n = ${1}`.describe();
  say("described", [described.types.length, described.columns.map((column) => column.name)]);
  say("simple", (await sql`select 1 as n; select 2 as n`.simple()).map(([row]) => row.n));
  say("unprepared", [...(await sql.unsafe("select $1::text as word", ["plain"], { prepare: false }))]);
}

async function transactions(sql) {
  const [a, b] = await sql.begin((sql) => [sql`select 1 as n`, sql`select 2 as n`]);
  const counted = await sql.begin("isolation level repeatable read", async (sql) => {
    await sql`insert into counters values ('js', 1)`;
    await sql.savepoint(async (sql) => {
      await sql`insert into counters values ('js-inner', 1)`;
      throw new Error("no");
    }).catch(() => {});
    return sql`select key, current_setting('transaction_isolation') as level from counters where key like 'js%'`;
  });
  const failed = await failure(
    sql.begin(async (sql) => {
      await sql`insert into counters values ('js-never', 1)`;
      await sql`select 1 / ${0}::int`;
    }),
  );
  const left = await sql`select key from counters where key like 'js%'`;
  say("transactions", [a[0].n, b[0].n, counted, failed, left]);
  const reserved = await sql.reserve();
  await reserved`set timezone = 'Asia/Tokyo'`;
  await sql`select 1`;
  const [{ TimeZone }] = await reserved`show timezone`;
  await reserved`reset timezone`;
  reserved.release();
  say("reserved", TimeZone);
}

async function cursors(sql) {
  const counts = [];
  await sql`select n from generate_series(1, 25) n`.cursor(10, (rows) => counts.push(rows.length));
  let seen = 0;
  for await (const [row] of sql`select n from generate_series(1, 100) n`.cursor()) {
    seen += row.n;
    if (row.n === 10) break;
  }
  let streamed = 0;
  await sql`select n from generate_series(1, 1000) n`.forEach((row) => (streamed += row.n));
  say("cursors", [counts, seen, streamed]);
}

// A text beyond what a stream holds (16 KiB) can stop the driver for good, also
// without anything in between (porsager/postgres#499 and #1016).
async function copies(sql) {
  const lines = Array.from({ length: 200 }, (_, n) => `jscopy-${n}\t${n}\n`);
  await pipeline(Readable.from(lines), await sql`copy things (key, n) from stdin`.writable());
  const query = sql`copy (select key, n from things where key like 'jscopy-%' order by n) to stdout`;
  let text = "";
  for await (const piece of await query.readable()) text += piece;
  // It ends each COPY twice; the second end comes behind other questions.
  const again = await Promise.all([1, 2, 3].map((n) => sql`select ${n}::int as n`));
  const gone = await sql`delete from things where key like 'jscopy-%'`;
  say("copied", [text === lines.join(""), again.map(([row]) => row.n), gone.count]);
}

async function cancels() {
  let wake;
  const asleep = new Promise((resolve) => (wake = resolve));
  const sql = postgres(url, { ...quiet, max: 1, onnotice: (notice) => wake(notice.message) });
  const query = sql`select sleep_aloud(60)`;
  const ended = failure(query.execute());
  const notice = await asleep;
  query.cancel();
  say("cancelled", [notice, await ended, (await sql`select 'goes on' as word`)[0].word]);
  await sql.end({ timeout: 1 });
}

// Connections are closed and opened again while there is work.
async function short_lives() {
  let closed = 0;
  const sql = postgres(url, { ...quiet, max: 2, max_lifetime: 0.05, onclose: () => (closed += 1) });
  let wrong = 0;
  for (let count = 0; closed < 6; count += 20) {
    const numbers = Array.from({ length: 20 }, (_, n) => count + n);
    const answers = await Promise.all(numbers.map((n) => sql`select ${n}::int as n, pg_sleep(0.001)`));
    wrong += answers.filter(([row], n) => row.n !== numbers[n]).length;
  }
  say("short lives", wrong);
  await sql.end();
}

async function notifications(sql) {
  try {
    let hear;
    const heard = new Promise((resolve) => (hear = resolve));
    const { unlisten } = await sql.listen("js_news", hear);
    await sql.notify("js_news", "today");
    say("notifications", await heard);
    await unlisten();
  } catch (error) {
    say("notifications", [error.code, error.hint]);
  }
}

async function main() {
  const sql = postgres(url, { ...quiet, max: 3 });
  for (const stage of [statements, transactions, cursors, copies, notifications]) await stage(sql);
  await sql.end({ timeout: 1 });
  await cancels();
  await short_lives();
}

main().then(
  () => process.exit(0),
  (error) => {
    console.error(error);
    process.exit(1);
  },
);
