"""Accounts and their entries."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade():
    kind = sa.Enum("private", "company", name="account_kind")
    op.create_table(
        "accounts",
        sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True),
        sa.Column("email", sa.String(200), nullable=False, unique=True),
        sa.Column("kind", kind, nullable=False, server_default="private"),
        sa.Column("made_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
    )
    op.create_table(
        "entries",
        sa.Column("id", sa.BigInteger, primary_key=True),
        sa.Column("account_id", sa.BigInteger, sa.ForeignKey("accounts.id", ondelete="CASCADE"), nullable=False),
        sa.Column("cents", sa.BigInteger, nullable=False),
        sa.CheckConstraint("cents <> 0", name="cents_not_zero"),
    )
    op.create_index("entries_account", "entries", ["account_id"])
    rates = op.create_table("rates", sa.Column("code", sa.String(3), primary_key=True), sa.Column("rate", sa.Numeric))
    op.bulk_insert(rates, [{"code": "EUR", "rate": 1}, {"code": "USD", "rate": 1.1}])
