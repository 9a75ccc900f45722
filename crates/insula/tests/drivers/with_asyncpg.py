"""What asyncpg does besides sending statements: it prepares everything, keeps
what it has prepared, asks the catalogs about types, and resets a connection
with several statements before its pool gives it to the next.

It gets a postgres:// URL, and prints a line for each thing.
"""

import asyncio
import datetime
import decimal
import io
import json
import sys

import asyncpg

URL = sys.argv[1]


def say(what, value):
    print(f"{what}: {value}", flush=True)


async def failure(awaitable):
    try:
        await awaitable
    except asyncpg.PostgresError as error:
        return error.sqlstate
    return None


async def statements():
    first, second = [await asyncpg.connect(URL, statement_cache_size=3) for _ in range(2)]
    seen = []
    for round in range(5):
        for connection, factor in ((first, 10), (second, 100)):
            for extra in range(5):
                found = await connection.fetchval(f"select $1::int * {factor} + {extra}", round)
                seen.append(found == round * factor + extra)
    prepared = await first.prepare("select $1::int + $2::bigint as total, 'x'::text as letter")
    columns = [(column.name, column.type.name) for column in prepared.get_attributes()]
    types = [kind.name for kind in prepared.get_parameters()]
    answers = [await prepared.fetchval(n, 40) for n in range(3)]
    say("statements", (all(seen), columns, types, answers))
    failed = [
        await failure(first.fetch("select 1 / $1::int", 0)),
        await failure(first.fetch("selec")),
        await failure(first.execute("insert into things (key) values ('asyncpg-a'), ('asyncpg-a')")),
    ]
    say("statements that fail", (failed, await first.fetchval("select 'goes on'")))
    many = [(f"asyncpg-many-{n}", n) for n in range(100)]
    await first.executemany("insert into things (key, n) values ($1, $2)", many)
    again = await failure(first.executemany("insert into things (key, n) values ($1, $2)", [("asyncpg-new", 1), *many]))
    rows = await first.fetch("select key, n from things where key like 'asyncpg-%' order by n")
    say("many", ([tuple(row) for row in rows] == many, again))
    await first.execute("delete from things where key like 'asyncpg-%'; select 1")
    for connection in (first, second):
        await connection.close()


async def types():
    connection = await asyncpg.connect(URL)
    await connection.set_type_codec("jsonb", schema="pg_catalog", encoder=json.dumps, decoder=json.loads)
    row = (
        "asyncpg-types",
        "large",
        ["small", "large"],
        decimal.Decimal("99.95"),
        datetime.datetime(2024, 2, 29, 12, 30, tzinfo=datetime.timezone.utc),
        {"ä": [1, None]},
        bytes(range(256)),
        ["x", None, 'y"'],
    )
    columns = "key, kind, kinds, price, at, body, data, tags"
    insert = f"insert into things ({columns}) values ($1, $2, $3, $4, $5, $6, $7, $8)"
    await connection.execute(insert, *row)
    found = await connection.fetchrow(f"select {columns} from things where key = $1", row[0])
    # A row as a value, whose type the catalogs are asked for.
    await connection.execute("insert into counters values ('asyncpg', 5)")
    whole = await connection.fetchval("select counters from counters where key = 'asyncpg'")
    pair = await connection.fetchval("select (1, 'one', array['small', 'large']::thing_kind[])")
    spans = await connection.fetchval("select array[int4range(1, 5), int4range(7, null)]")
    say("types", (tuple(found) == row, (whole["key"], whole["n"]), pair, [(span.lower, span.upper) for span in spans]))
    await connection.execute("delete from things where key = $1", row[0])
    await connection.close()


async def copies():
    connection = await asyncpg.connect(URL)
    records = [(f"copied-{n}", n, ["a", "b"], decimal.Decimal(n)) for n in range(500)]
    columns = ["key", "n", "tags", "price"]
    done = [await connection.copy_records_to_table("things", records=records, columns=columns)]
    more = io.BytesIO(b"copied-500,500\ncopied-501,501\n")
    done.append(await connection.copy_to_table("things", source=more, columns=["key", "n"], format="csv"))
    out, queried = io.BytesIO(), io.BytesIO()
    done.append(await connection.copy_from_table("counters", output=out, format="csv"))
    query = "select key, n from things where key like $1 order by n desc limit 2"
    done.append(await connection.copy_from_query(query, "copied-%", output=queried, format="csv"))
    again = await failure(connection.copy_records_to_table("things", records=records, columns=columns))
    say("copied", (done[0], done[1], done[3], queried.getvalue().decode().split(), again))
    await connection.execute("delete from things where key like 'copied-%'")
    await connection.close()


async def transactions():
    connection, other = [await asyncpg.connect(URL) for _ in range(2)]
    async with connection.transaction():
        rows = [row["n"] async for row in connection.cursor("select n from generate_series(1, 100) n", prefetch=7)]
        cursor = await connection.cursor("select n from generate_series(1, 100) n")
        first = [row["n"] for row in await cursor.fetch(3)]
        skipped = await cursor.forward(50)
        next = (await cursor.fetchrow())["n"]
    outside = None
    try:
        await other.cursor("select 1")
    except asyncpg.NoActiveSQLTransactionError as error:
        outside = type(error).__name__
    say("cursors", (sum(rows), first, skipped, next, outside))
    async with connection.transaction(isolation="serializable", readonly=True, deferrable=True):
        shown = await connection.fetchval("show transaction_isolation")
        refused = await failure(connection.execute("insert into counters values ('asyncpg-no', 1)"))
        behind = await failure(connection.fetchval("select 1"))
        await other.execute("select 1")
    async with connection.transaction():
        await connection.execute("insert into counters values ('asyncpg-outer', 1)")
        try:
            async with connection.transaction():
                await connection.execute("insert into counters values ('asyncpg-inner', 1)")
                await connection.execute("select 1 / 0")
        except asyncpg.DivisionByZeroError:
            pass
    kept = await other.fetch("select key from counters where key like 'asyncpg-%'")
    say("transactions", (shown, refused, behind, [row["key"] for row in kept]))
    await connection.close()
    await other.close()


async def pools():
    pool = await asyncpg.create_pool(URL, min_size=2, max_size=4)

    async def work(n):
        async with pool.acquire() as connection:
            # What the last one has set is not there any more.
            clean = await connection.fetchval("select coalesce(current_setting('app.who', true), '')") == ""
            clean &= await connection.fetchval("show timezone") != "Asia/Tokyo"
            await connection.execute(f"set app.who = '{n}'; set timezone = 'Asia/Tokyo'")
            return clean and await connection.fetchval("select current_setting('app.who')") == str(n)

    say("a pool", all(await asyncio.gather(*(work(n) for n in range(100)))))
    await pool.close()


async def giving_up():
    pool = await asyncpg.create_pool(URL, min_size=1, max_size=1)
    complaints = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda loop, context: complaints.append(context["message"].split(" <")[0]))
    async with pool.acquire() as connection:
        try:
            await connection.fetch("select pg_sleep(60)", timeout=1)
        except TimeoutError:
            say("given up", await connection.fetchval("select 'goes on'"))
        asleep = asyncio.Event()
        wake = lambda connection, message: asleep.set()
        connection.add_log_listener(wake)
        task = asyncio.create_task(connection.execute("begin; select sleep_aloud(60)"))
        await asleep.wait()
        connection.remove_log_listener(wake)
        task.cancel()
        await asyncio.wait([task])
    # The pool waits until it is cancelled, and rolls back.
    async with pool.acquire() as connection:
        word = await connection.fetchval("select 'the next'")
        say("given up in a transaction", (connection.is_in_transaction(), word, complaints))
    await pool.close()


async def notifications():
    listener, speaker = [await asyncpg.connect(URL) for _ in range(2)]
    heard = asyncio.get_running_loop().create_future()
    try:
        await listener.add_listener("asyncpg_news", lambda *note: heard.set_result(note[2:]))
        await speaker.execute("select pg_notify('asyncpg_news', 'today')")
        async with asyncio.timeout(20):
            say("notifications", await heard)
        await listener.reset()
    except asyncpg.PostgresError as error:
        say("notifications", (error.sqlstate, error.hint))
    await listener.close()
    await speaker.close()


async def main():
    await statements()
    await types()
    await copies()
    await transactions()
    await pools()
    await giving_up()
    await notifications()


asyncio.run(main())
