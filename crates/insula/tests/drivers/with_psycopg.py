"""What psycopg 3 does besides sending statements: pipelines, cursors on the
server, statements that it prepares by itself, COPY, binary values, pools.

It gets a postgres:// URL, and prints a line for each thing.
"""

import asyncio
import decimal
import logging
import sys
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor

import psycopg
from psycopg import IsolationLevel, errors
from psycopg.rows import dict_row
from psycopg.types.enum import EnumInfo, register_enum
from psycopg.types.json import Jsonb
from psycopg_pool import AsyncConnectionPool, ConnectionPool

URL = sys.argv[1]

# Whether it complains of what a pipeline leaves behind is a matter of time.
logging.getLogger("psycopg").setLevel(logging.ERROR)


def say(what, value):
    print(f"{what}: {value}", flush=True)


def connect(**options):
    return psycopg.connect(URL, autocommit=True, **options)


def sqlstate(act):
    try:
        act()
    except psycopg.Error as error:
        return error.sqlstate
    return None


def prepared_by_itself():
    first, second = connect(), connect()
    seen = []
    for connection, factor in ((first, 10), (second, 100)):
        connection.prepare_threshold = 2
        connection.prepared_max = 3
    # The same names for other statements, and more than are kept.
    for round in range(6):
        for connection, factor in ((first, 10), (second, 100)):
            for extra in range(5):
                query = f"select %s::int * {factor} + {extra}"
                seen.append(connection.execute(query, (round,)).fetchone()[0] == round * factor + extra)
    for connection in (first, second):
        connection.close()
    say("prepared by itself", (len(seen), all(seen)))


def pipelines(connection):
    with connection.pipeline():
        cursors = [connection.execute("select %s::int", (n,)) for n in range(300)]
        answers = [cursor.fetchone()[0] for cursor in cursors]
    say("pipelined", answers == list(range(300)))
    states = []
    with connection.pipeline():
        connection.execute("insert into things (key) values ('psycopg-before')")
        try:
            # It begins and ends with a Sync.
            with connection.pipeline():
                connection.execute("insert into things (key) values ('psycopg-with')")
                connection.execute("select 1 / 0")
                connection.execute("insert into things (key) values ('psycopg-behind')")
        except psycopg.Error as error:
            states.append(error.sqlstate)
        connection.execute("insert into things (key) values ('psycopg-after')")
    left = connection.execute("select key from things where key like 'psycopg-%' order by key").fetchall()
    say("a pipeline that fails", (states, [key for (key,) in left]))
    connection.execute("delete from things where key like 'psycopg-%'")
    try:
        with connection.transaction(), connection.pipeline():
            connection.execute("insert into things (key) values ('psycopg-in')")
            connection.execute("select 1 / 0")
            connection.execute("select 1")
    except psycopg.Error as error:
        states.append(error.sqlstate)
    left = connection.execute("select count(*) from things where key = 'psycopg-in'").fetchone()[0]
    say("a transaction in a pipeline that fails", (states[-1], left))


def cursors(connection):
    with connection.transaction(), connection.cursor("numbers", scrollable=True) as cursor:
        cursor.itersize = 7
        cursor.execute("select n from generate_series(1, 100) n")
        total = sum(n for (n,) in cursor)
        cursor.scroll(0, mode="absolute")
        first = [n for (n,) in cursor.fetchmany(3)]
        cursor.scroll(-2)
        say("a cursor on the server", (total, first, cursor.fetchone()[0]))
    other = connect()
    holding = connect()
    cursor = holding.cursor("held", withhold=True)
    cursor.execute("select n from generate_series(1, 100) n")
    seen = []
    for _ in range(5):
        seen += [n for (n,) in cursor.fetchmany(10)]
        other.execute("select 1")
    cursor.close()
    say("a cursor with hold", seen == list(range(1, 51)))
    streamed = [n for (n,) in other.cursor().stream("select n from generate_series(1, 50) n")]
    stream = other.cursor().stream("select n from generate_series(1, 5000) n")
    next(stream)
    stream.close()
    say("streamed", (len(streamed), other.execute("select 'still here'").fetchone()[0]))
    other.close()
    holding.close()


def copies(connection):
    rows = [(f"copy-{n}", n, decimal.Decimal(n) / 4, bytes([0, n, 255]), ["a", "b"]) for n in range(200)]
    columns = "things (key, n, price, data, tags)"
    with connection.cursor() as cursor:
        with cursor.copy(f"copy {columns} from stdin (format binary)") as copy:
            copy.set_types(["text", "int4", "numeric", "bytea", "text[]"])
            for row in rows[:100]:
                copy.write_row(row)
        with cursor.copy(f"copy {columns} from stdin") as copy:
            for row in rows[100:]:
                copy.write_row(row)
        taken = {}
        for form in ("binary", "text"):
            query = f"copy (select key, n, price, data, tags from things where key like 'copy-%' order by n) to stdout (format {form})"
            with cursor.copy(query) as copy:
                copy.set_types(["text", "int4", "numeric", "bytea", "text[]"])
                taken[form] = list(copy.rows())
        say("copied", taken["binary"] == rows == taken["text"])
        failed = []
        for lines in (b"copy-1\t1\n", b"too\tmany\tcolumns\n", b"x\tno number\n"):
            try:
                with cursor.copy("copy things (key, n) from stdin") as copy:
                    copy.write(lines)
            except psycopg.Error as error:
                failed.append(error.sqlstate)
        try:
            with cursor.copy("copy things (key, n) from stdin") as copy:
                copy.write(b"half-1\t1\n")
                raise KeyError("changed its mind")
        except KeyError:
            pass
        left = connection.execute("select count(*) from things where key like 'half-%'").fetchone()[0]
        say("copies that fail", (failed, left))
    connection.execute("delete from things where key like 'copy-%'")


def values(connection):
    info = EnumInfo.fetch(connection, "thing_kind")
    register_enum(info, connection)
    row = {
        "key": f"value-{uuid.uuid4()}",
        "price": decimal.Decimal("12.50"),
        "body": {"ä": [1, None, {"b": True}]},
        "data": bytes(range(256)),
        "tags": ["x", 'y"', None, ""],
    }
    connection.execute(
        "insert into things (key, kind, kinds, price, body, data, tags)"
        " values (%(key)s, %(kind)b, %(kinds)s, %(price)b, %(body)b, %(data)b, %(tags)s)",
        row | {"kind": info.enum["large"], "kinds": list(info.enum), "body": Jsonb(row["body"])},
    )
    same = []
    for binary in (False, True):
        cursor = connection.cursor(row_factory=dict_row, binary=binary)
        found = cursor.execute("select key, price, body, data, tags, kinds from things where key = %(key)s", row)
        found = found.fetchone()
        same.append(found.pop("kinds") == list(info.enum) and found == row)
    say("values", (info.labels, same))
    cursor = connection.execute("select 1; select 2; select 3")
    several = [cursor.fetchone()[0]]
    while cursor.nextset():
        several.append(cursor.fetchone()[0])
    many = connection.cursor()
    keys = [(f"many-{n}", n) for n in range(20)]
    many.executemany("insert into things (key, n) values (%s, %s) returning n", keys, returning=True)
    returned = [many.fetchone()[0]]
    while many.nextset():
        returned.append(many.fetchone()[0])
    say("several at once", (several, returned == list(range(20))))
    connection.execute("delete from things where key like 'many-%'")


def transactions():
    first, second = psycopg.connect(URL), psycopg.connect(URL)
    for connection in (first, second):
        connection.isolation_level = IsolationLevel.SERIALIZABLE
    states = []
    with connect() as plain:
        plain.execute("insert into counters values ('write', 1), ('skew', 1)")
    sums = "select sum(n) from counters where key in ('write', 'skew')"
    for connection, key in ((first, "write"), (second, "skew")):
        connection.execute(sums)
    for connection, key in ((first, "write"), (second, "skew")):
        connection.execute("update counters set n = 0 where key = %s", (key,))
    first.commit()
    states.append(sqlstate(second.commit))
    second.rollback()
    second.isolation_level, second.read_only = None, True
    states.append(sqlstate(lambda: second.execute("insert into counters values ('no', 1)")))
    second.rollback()
    second.read_only = None
    with second.transaction():
        second.execute("insert into counters values ('outer', 1)")
        try:
            with second.transaction():
                second.execute("insert into counters values ('inner', 1)")
                second.execute("select 1 / 0")
        except errors.DivisionByZero:
            pass
        with second.transaction(force_rollback=True):
            second.execute("insert into counters values ('forced', 1)")
    kept = second.execute("select key from counters where key in ('outer', 'inner', 'forced', 'no')").fetchall()
    second.commit()
    say("transactions", (states, kept))
    # Of two phases there is one.
    second.tpc_begin(second.xid(1, "first", "second"))
    second.execute("insert into counters values ('two', 2)")
    try:
        second.tpc_prepare()
    except psycopg.Error as error:
        say("two phases", (type(error).__name__, error.diag.message_hint))
    second.close()
    with connect() as plain:
        left = plain.execute("select count(*) from counters where key = 'two'").fetchone()[0]
        say("left of two phases", left)
    first.close()


def sessions():
    """What a session keeps without a transaction around it."""
    with connect() as connection, connect() as other:
        insert = "insert into things (key) values (%s) returning id"
        read = []
        for key in ("session-1", "session-2"):
            given = connection.execute(insert, (key,)).fetchone()[0]
            try:
                read.append(connection.execute("select lastval()").fetchone()[0] == given)
            except psycopg.Error as error:
                read.append(error.sqlstate)
        say("lastval", read)
        connection.execute("delete from things where key like 'session-%'")
        connection.execute("set timezone to 'Asia/Tokyo'")
        connection.execute("select set_config('app.who', 'ada', false)")
        other.execute("select 1")
        say("settings", connection.execute("select current_setting('timezone'), current_setting('app.who')").fetchone())
        try:
            connection.execute("create temp table mine (n int)")
            connection.execute("insert into mine values (1)")
            other.execute("select 1")
            say("temporary tables", connection.execute("select n from mine").fetchone())
        except psycopg.Error as error:
            say("temporary tables", error.sqlstate)
        try:
            connection.execute("select pg_advisory_lock(7)")
            say("locks of the session", other.execute("select pg_try_advisory_lock(7)").fetchone())
        except psycopg.Error as error:
            say("locks of the session", error.sqlstate)
        connection.execute("prepare in_sql as select $1::int + 1")
        other.execute("select 1")
        say("prepared in SQL", connection.execute("execute in_sql (41)").fetchone())


def cancels():
    connection = connect()
    asleep = threading.Event()
    connection.add_notice_handler(lambda notice: asleep.set())

    def cancel():
        asleep.wait(60)
        connection.cancel_safe()

    canceller = threading.Thread(target=cancel)
    canceller.start()
    states = [sqlstate(lambda: connection.execute("select sleep_aloud(60)"))]
    canceller.join()
    connection.execute("set statement_timeout = '100ms'")
    with connect() as other:
        other.execute("select 1")
    states.append(sqlstate(lambda: connection.execute("select pg_sleep(60)")))
    say("cancelled", (states, connection.execute("select 'goes on'").fetchone()[0]))
    connection.close()


def notifications():
    with connect() as listener, connect() as speaker:
        try:
            listener.execute("listen psycopg_news")
            speaker.execute("notify psycopg_news, 'today'")
            heard = [(note.channel, note.payload) for note in listener.notifies(timeout=20, stop_after=1)]
            say("notifications", heard)
        except psycopg.Error as error:
            say("notifications", (error.sqlstate, error.diag.message_hint))


def pools():
    def work(n):
        with pool.connection() as connection:
            connection.execute("select set_config('app.n', %s, true)", (str(n),))
            found = connection.execute("select current_setting('app.n')").fetchone()
            return found == (str(n),)

    with ConnectionPool(URL, min_size=2, max_size=4, check=ConnectionPool.check_connection) as pool:
        with ThreadPoolExecutor(12) as threads:
            say("a pool", all(threads.map(work, range(120))))


async def asynchronously():
    async def work(pool, n):
        async with pool.connection() as connection, connection.cursor() as cursor:
            await cursor.execute("select %s::int, pg_sleep(0.001)", (n,))
            return (await cursor.fetchone())[0]

    async with AsyncConnectionPool(URL, min_size=2, max_size=6) as pool:
        answers = await asyncio.gather(*(work(pool, n) for n in range(200)))
        say("asynchronous", answers == list(range(200)))
        async with pool.connection() as connection:
            asleep = asyncio.Event()
            connection.add_notice_handler(lambda notice: asleep.set())
            task = asyncio.create_task(connection.execute("select sleep_aloud(60)"))
            await asleep.wait()
            task.cancel()
            await asyncio.wait([task])
            await connection.rollback()
            cursor = await connection.execute("select 'in time'")
            say("given up", (await cursor.fetchone())[0])


def main():
    with connect() as connection:
        prepared_by_itself()
        pipelines(connection)
        cursors(connection)
        copies(connection)
        values(connection)
    transactions()
    sessions()
    cancels()
    notifications()
    pools()
    asyncio.run(asynchronously())


main()
