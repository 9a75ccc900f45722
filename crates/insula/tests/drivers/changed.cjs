// What node-postgres and Postgres.js do when a statement that they have prepared
// gives something else than before: a column of another type.
//
// It gets a postgres:// URL, prepares, prints `ready`, waits for a line, and
// prints for each driver what two connections have got at the third attempt.

const { Client } = require("pg");
const postgres = require("postgres");

const url = process.argv[2];
const text = "select n from things where key = $1";
const outcome = (promise) => promise.then(([row]) => Number(row.n), (error) => error.code);

async function attempts(clients, pools) {
  let got;
  let gotByPostgresJs;
  for (let attempt = 0; attempt < 3; attempt += 1) {
    got = [];
    gotByPostgresJs = [];
    for (const client of clients) {
      const query = client.query({ name: "changing", text, values: ["changing"] });
      got.push(await outcome(query.then((result) => result.rows)));
    }
    for (const sql of pools) gotByPostgresJs.push(await outcome(sql`select n from things where key = ${"changing"}`));
  }
  return [got, gotByPostgresJs];
}

async function main() {
  const clients = [new Client({ connectionString: url }), new Client({ connectionString: url })];
  for (const client of clients) await client.connect();
  const pools = [postgres(url, { max: 1 }), postgres(url, { max: 1 })];
  await attempts(clients, pools);
  console.log("ready");
  await new Promise((resolve) => process.stdin.once("data", resolve));
  const [got, gotByPostgresJs] = await attempts(clients, pools);
  console.log(`pg: ${JSON.stringify(got)}\npostgresjs: ${JSON.stringify(gotByPostgresJs)}`);
  for (const end of [...clients, ...pools]) await end.end();
  process.stdin.destroy();
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
