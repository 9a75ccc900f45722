"""What SQLAlchemy does besides sending statements, with psycopg and with
asyncpg beneath: pools that ask before they give, cursors on the server, many
rows in one statement, reflection.

It gets a postgres:// URL, and prints a line for each thing and driver.
"""

import asyncio
import enum
import sys
from decimal import Decimal

from sqlalchemy import Numeric, create_engine, insert, inspect, select, text
from sqlalchemy.dialects import postgresql as pg
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

URL = sys.argv[1]


class Kind(enum.Enum):
    small = "small"
    large = "large"


class Base(DeclarativeBase):
    pass


class Thing(Base):
    __tablename__ = "things"
    id: Mapped[int] = mapped_column(primary_key=True)
    key: Mapped[str]
    n: Mapped[int] = mapped_column(default=0)
    kind: Mapped[Kind] = mapped_column(pg.ENUM(Kind, name="thing_kind"), default=Kind.small)
    price: Mapped[Decimal | None] = mapped_column(Numeric(12, 2))
    body: Mapped[dict | None] = mapped_column(pg.JSONB)
    tags: Mapped[list[str]] = mapped_column(pg.ARRAY(pg.TEXT), default=list)


def say(what, driver, value):
    print(f"{what}, {driver}: {value}", flush=True)


def url(driver):
    return URL.replace("postgres://", f"postgresql+{driver}://", 1)


def many(session, driver):
    """All rows in few statements, and the keys that the server gave in the order of the rows."""
    things = [Thing(key=f"alchemy-{driver}-{n}", n=n, price=Decimal(n), body={"n": [n]}, tags=["a"]) for n in range(1500)]
    session.add_all(things)
    session.flush()
    rows = session.execute(select(Thing.id, Thing.n).where(Thing.key.like(f"alchemy-{driver}-%"))).all()
    numbers = {row.id: row.n for row in rows}
    in_order = all(numbers[thing.id] == thing.n for thing in things)
    updated = session.execute(
        insert(Thing).returning(Thing.n, sort_by_parameter_order=True),
        [{"key": f"alchemy-{driver}-more-{n}", "n": n} for n in range(50)],
    )
    say("many rows", driver, (len(rows), in_order, updated.scalars().all() == list(range(50))))
    upsert = pg.insert(Thing).values(key=f"alchemy-{driver}-0", n=7, kind=Kind.large)
    upsert = upsert.on_conflict_do_update(index_elements=["key"], set_={"n": upsert.excluded.n})
    upserted = session.execute(upsert.returning(Thing.n, Thing.kind, Thing.body)).one()
    say("upserted", driver, tuple(upserted))


def savepoints(session, driver):
    try:
        with session.begin_nested():
            session.add(Thing(key=f"alchemy-{driver}-0"))
    except IntegrityError as error:
        say("a savepoint", driver, error.orig.sqlstate)
    session.commit()
    left = session.scalars(select(Thing.n).where(Thing.key == f"alchemy-{driver}-0")).all()
    say("left of it", driver, left)


def reflected(connection, driver):
    found = inspect(connection)
    columns = {column["name"]: str(column["type"]) for column in found.get_columns("things")}
    unique = [constraint["column_names"] for constraint in found.get_unique_constraints("counters")]
    key = found.get_pk_constraint("counters")["constrained_columns"]
    enums = [(found["name"], found["labels"]) for found in found.get_enums()]
    say("reflected", driver, (columns["price"], columns["tags"], columns["kind"], unique, key, enums))


def cleared(connection, driver):
    gone = connection.execute(text("delete from things where key like :keys"), {"keys": f"alchemy-{driver}-%"})
    say("deleted", driver, gone.rowcount)


def with_psycopg():
    driver = "psycopg"
    engine = create_engine(url(driver), pool_pre_ping=True, pool_size=2, pool_recycle=1)
    with Session(engine) as session:
        many(session, driver)
        savepoints(session, driver)
        keys = select(Thing.n).where(Thing.key.like(f"alchemy-{driver}-more-%")).order_by(Thing.n)
        streamed = session.execute(keys.execution_options(yield_per=7)).partitions()
        say("streamed", driver, [sum(row.n for row in rows) for rows in streamed])
    with engine.connect() as connection:
        reflected(connection, driver)
        connection.rollback()
        level = connection.execution_options(isolation_level="REPEATABLE READ")
        say("isolation", driver, level.execute(text("show transaction_isolation")).scalar())
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        cleared(connection, driver)
        say("isolation behind it", driver, connection.execute(text("show transaction_isolation")).scalar())
    # What the driver does in between is its own: it is refused at the first step.
    with engine.connect() as connection:
        two = connection.begin_twophase()
        connection.execute(text("select 1"))
        try:
            two.prepare()
        except DBAPIError as error:
            say("two phases", driver, type(error.orig).__name__)
        connection.invalidate()
    # Connections that were ended meanwhile are found out before they are given.
    engine.dispose()
    with engine.connect() as connection:
        connection.execute(text("select 1"))
        raw = connection.connection.driver_connection
    raw.close()
    with engine.connect() as connection:
        say("asked before", driver, connection.execute(text("select 'there again'")).scalar())
    engine.dispose()


async def with_asyncpg():
    driver = "asyncpg"
    engine = create_async_engine(
        url(driver), pool_pre_ping=True, pool_size=2, connect_args={"prepared_statement_cache_size": 5}
    )
    async with AsyncSession(engine) as session:
        await session.run_sync(many, driver)
        await session.run_sync(savepoints, driver)
        keys = select(Thing.n).where(Thing.key.like(f"alchemy-{driver}-more-%")).order_by(Thing.n)
        streamed = await session.stream(keys.execution_options(yield_per=7))
        say("streamed", driver, [sum(row.n for row in rows) async for rows in streamed.partitions()])
    async with engine.connect() as connection:
        await connection.run_sync(reflected, driver)
        await connection.rollback()
        level = await connection.execution_options(isolation_level="REPEATABLE READ")
        say("isolation", driver, (await level.execute(text("show transaction_isolation"))).scalar())
    async with engine.connect() as connection:
        connection = await connection.execution_options(isolation_level="AUTOCOMMIT")
        await connection.run_sync(cleared, driver)
        shown = await connection.execute(text("show transaction_isolation"))
        say("isolation behind it", driver, shown.scalar())

    async def work(n):
        async with engine.connect() as connection:
            found = await connection.execute(text("select cast(:n as int), cast(:word as text)"), {"n": n, "word": f"w{n}"})
            return tuple(found.one()) == (n, f"w{n}")

    say("a pool", driver, all(await asyncio.gather(*(work(n) for n in range(60)))))
    async with engine.connect() as connection:
        await connection.execute(text("select 1"))
        raw = (await connection.get_raw_connection()).driver_connection
    raw.terminate()
    async with engine.connect() as connection:
        say("asked before", driver, (await connection.execute(text("select 'there again'"))).scalar())
    await engine.dispose()


with_psycopg()
asyncio.run(with_asyncpg())
