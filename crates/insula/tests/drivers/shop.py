"""A shop's program, written for one tenant, with psycopg and with SQLAlchemy.

It gets a postgres:// URL and the name that the owner of the database gives
himself. It writes rows with fixed primary keys and e-mail addresses, reads
everything back, and prints what it saw as JSON. It mentions no tenant.
"""

import json
import sys

import psycopg
from sqlalchemy import create_engine, text
from sqlalchemy.orm import Mapped, Session, mapped_column

from customers import Base, Customer


class Product(Base):
    __tablename__ = "products"
    id: Mapped[int] = mapped_column(primary_key=True)
    sku: Mapped[str]
    name: Mapped[str]


def with_psycopg(url, owner):
    with psycopg.connect(url) as connection, connection.cursor() as cursor:
        cursor.execute(
            "insert into customers (id, email, name) values (%s, %s, %s)",
            (1001, "grace@example.com", f"Grace of {owner}"),
        )
        with cursor.copy("copy (select email, name from customers order by id) to stdout") as copy:
            copied = b"".join(copy).decode()
        cursor.executemany(
            "insert into products (id, sku, name) values (%s, %s, %s)",
            [(2000 + n, f"SKU-{n}", f"Product {n} of {owner}") for n in range(50)],
        )
        cursor.execute("select count(*) from products where name like %s", (f"%of {owner}",))
        return copied, cursor.fetchone()[0]


def with_sqlalchemy(url, owner):
    engine = create_engine(url.replace("postgres://", "postgresql+psycopg://", 1))
    with Session(engine) as session:
        session.add(Customer(id=1002, email="mary@example.com", name=f"Mary of {owner}"))
        session.add(Product(id=3000, sku="SKU-ORM", name=f"Mapped of {owner}"))
        session.commit()
        session.execute(
            text("insert into orders (id, number, customer_id, currency) values (1, 'A-1', 1002, 'EUR')")
        )
        session.execute(text("insert into stock (product_id, quantity) values (3000, 10)"))
        session.execute(
            text("insert into order_lines (order_id, line, product_id, quantity, cents) values (1, 1, 3000, 3, 500)")
        )
        session.commit()
        total = session.execute(text("select cents from order_totals where number = 'A-1'")).scalar_one()
        left = session.execute(text("select quantity from stock where product_id = 3000")).scalar_one()
        # The order stays when the customer goes; the foreign key says so.
        session.delete(session.get(Customer, 1002))
        session.commit()
        orphan = session.execute(text("select customer_id is null from orders where number = 'A-1'")).scalar_one()
        names = [name for (name,) in session.execute(text("select name from customers order by id"))]
        products = session.execute(text("select count(*) from products")).scalar_one()
    engine.dispose()
    return total, left, orphan, names, products


def main():
    url, owner = sys.argv[1], sys.argv[2]
    copied, products_seen = with_psycopg(url, owner)
    total, left, orphan, names, products = with_sqlalchemy(url, owner)
    print(
        json.dumps(
            {
                "copied": copied,
                "own_products": products_seen,
                "order_total": total,
                "stock_left": left,
                "order_without_customer": orphan,
                "customers": names,
                "products": products,
            }
        )
    )


main()
