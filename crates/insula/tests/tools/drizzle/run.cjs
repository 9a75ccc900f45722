// Drizzle: `run.cjs migrate` runs the migrations, `run.cjs use NAME` works with
// the tables, on the database that DATABASE_URL names.

const path = require("node:path");
const { Pool } = require("pg");
const { drizzle } = require("drizzle-orm/node-postgres");
const { migrate } = require("drizzle-orm/node-postgres/migrator");
const { pgTable, serial, varchar, text, integer, primaryKey } = require("drizzle-orm/pg-core");
const { eq } = require("drizzle-orm");

const notes = pgTable("notes", {
  id: serial("id").primaryKey(),
  slug: varchar("slug", { length: 40 }).notNull().unique(),
  body: text("body").notNull().default(""),
});
const links = pgTable(
  "links",
  { from: integer("from_id").notNull(), to: integer("to_id").notNull() },
  (table) => [primaryKey({ columns: [table.from, table.to] })],
);

async function main([what, name]) {
  const pool = new Pool({ connectionString: process.env.DATABASE_URL, max: 2 });
  const db = drizzle(pool);
  if (what === "migrate") {
    const migrationsFolder = path.join(__dirname, "migrations");
    await migrate(db, { migrationsFolder, migrationsSchema: "public" });
  } else {
    const [first] = await db.insert(notes).values({ slug: "first", body: `of ${name}` }).returning();
    const [second] = await db.insert(notes).values({ slug: "second" }).returning();
    await db.insert(links).values({ from: first.id, to: second.id });
    await db
      .insert(notes)
      .values({ slug: "first", body: `again of ${name}` })
      .onConflictDoUpdate({ target: notes.slug, set: { body: `again of ${name}` } });
    await db.transaction(async (tx) => tx.delete(notes).where(eq(notes.slug, "second")));
    const found = await db.select({ slug: notes.slug, body: notes.body }).from(notes).orderBy(notes.slug);
    console.log(JSON.stringify({ notes: found, links: (await db.select().from(links)).length }));
  }
  await pool.end();
}

main(process.argv.slice(2)).catch((error) => {
  console.error(error);
  process.exit(1);
});
