"""What programs send that were written for one tenant: upserts, COPY in all
three formats, and GROUP BY a primary key, with psycopg and with SQLAlchemy.

It gets a postgres:// URL and the name that the owner of the database gives
himself, and prints what it saw as JSON. It mentions no tenant.
"""

import json
import sys

import psycopg
from sqlalchemy import ForeignKey, create_engine, func, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Mapped, Session, mapped_column

from customers import Base, Customer


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    number: Mapped[str]
    currency: Mapped[str]
    customer_id: Mapped[int | None] = mapped_column(ForeignKey("customers.id"))


def upserts(connection, owner):
    upsert = (
        "insert into customers (id, email, name) values (%s, %s, %s)"
        " on conflict (lower(email)) do update set name = customers.name || '+' returning name"
    )
    row = (1, "ada@example.com", f"Ada of {owner}")
    names = [connection.execute(upsert, row, prepare=prepare).fetchone()[0] for prepare in (False, True, True)]
    with connection.pipeline():
        connection.execute(upsert, row)
        connection.execute("insert into products (id, sku, name) values (1, 'A', 'a') on conflict (sku) do nothing")
    with connection.cursor() as cursor:
        cursor.executemany(upsert, [(2, "grace@example.com", "Grace"), (3, "GRACE@example.com", "Grace")])
    return names


def copies(connection):
    with connection.cursor() as cursor:
        with cursor.copy("copy orders (number, currency) from stdin") as copy:
            copy.write_row(("text", "EUR"))
        with cursor.copy("COPY orders (id, number, currency) FROM STDIN WITH (FORMAT csv, HEADER)") as copy:
            copy.write("id,number,currency\n1000,csv,EUR\n")
        schema = connection.execute("select current_schema()").fetchone()[0]
        with cursor.copy(f"COPY {schema}.orders (id, number, currency) FROM STDIN (FORMAT BINARY)") as copy:
            copy.set_types(["int8", "text", "text"])
            copy.write_row((1001, "binary", "EUR"))
    connection.commit()
    failed = None
    try:
        with connection.cursor().copy("copy orders (number, currency) from stdin") as copy:
            copy.write("stays not\tEUR\nnor this\tXXX\n")
            copy.write("text\tEUR\n")
    except psycopg.Error as error:
        failed = error.sqlstate
    connection.rollback()
    rows = connection.execute("select number, status::text, id is not null from orders order by number").fetchall()
    return failed, rows


def groups(connection, url):
    engine = create_engine(url.replace("postgres://", "postgresql+psycopg://", 1))
    with Session(engine) as session:
        statement = insert(Order).values(id=7, number="orm", currency="EUR", customer_id=1)
        statement = statement.on_conflict_do_update(index_elements=["number"], set_={"currency": "USD"})
        session.execute(statement)
        session.execute(statement)
        session.commit()
        counted = (
            select(Customer, func.count(Order.id))
            .outerjoin(Order, Order.customer_id == Customer.id)
            .group_by(Customer.id)
            .having(func.count(Order.id) >= 0)
            .order_by(Customer.email)
        )
        by_orm = [(customer.email, count) for customer, count in session.execute(counted)]
        currency = session.execute(text("select currency from orders where number = 'orm'")).scalar_one()
    engine.dispose()
    # What Django's annotate(Count(...)) sends.
    django = (
        'SELECT "customers"."id", "customers"."email", COUNT("orders"."id") AS "n" FROM "customers" '
        'LEFT OUTER JOIN "orders" ON ("customers"."id" = "orders"."customer_id") '
        'WHERE "customers"."id" IN (SELECT U0."id" FROM "customers" U0 GROUP BY U0."id" HAVING COUNT(*) = 1) '
        'GROUP BY "customers"."id" ORDER BY "n" DESC, "customers"."email" ASC'
    )
    by_django = connection.execute(django).fetchall()
    lines = connection.execute(
        "with customers as (select 1 as id), n as (select o.*, count(l.line) as lines from orders as o"
        " left join order_lines l on l.order_id = o.id group by o.id)"
        " select (select count(*) from customers group by customers.id), count(*) from n"
    ).fetchone()
    return by_orm, currency.strip(), by_django, lines


def main():
    url, owner = sys.argv[1], sys.argv[2]
    with psycopg.connect(url) as connection:
        names = upserts(connection, owner)
        connection.commit()
        failed, orders = copies(connection)
        by_orm, currency, by_django, lines = groups(connection, url)
        customers = connection.execute("select email, name from customers order by id").fetchall()
    said = {
        "names": names,
        "failed": failed,
        "orders": orders,
        "by_orm": by_orm,
        "currency": currency,
        "by_django": by_django,
        "lines": lines,
        "customers": customers,
    }
    print(json.dumps(said))


main()
