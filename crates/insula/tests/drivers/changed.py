"""What psycopg and asyncpg do when a statement that they have prepared gives
something else than before: a column of another type.

It gets a postgres:// URL, prepares, prints `ready`, waits for a line, and prints
for each driver what two connections have got at the third attempt.
"""

import asyncio
import sys

import asyncpg
import psycopg

URL = sys.argv[1]


def with_psycopg(connection):
    try:
        return connection.execute("select n from things where key = %s", ("changing",), prepare=True).fetchone()[0]
    except psycopg.Error as error:
        return error.sqlstate


async def with_asyncpg(connection):
    try:
        return await connection.fetchval("select n from things where key = $1", "changing")
    except asyncpg.PostgresError as error:
        return error.sqlstate


async def main():
    plain = [psycopg.connect(URL, autocommit=True) for _ in range(2)]
    asynchronous = [await asyncpg.connect(URL) for _ in range(2)]

    async def attempts():
        for _ in range(3):
            got = [with_psycopg(connection) for connection in plain]
            got_by_asyncpg = [await with_asyncpg(connection) for connection in asynchronous]
        return got, got_by_asyncpg

    await attempts()
    print("ready", flush=True)
    sys.stdin.readline()
    got, got_by_asyncpg = await attempts()
    print(f"psycopg: {got}\nasyncpg: {got_by_asyncpg}", flush=True)
    for connection in asynchronous:
        await connection.close()


asyncio.run(main())
