"""The e-mail address in small letters, for those that are there too."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade():
    op.add_column("accounts", sa.Column("email_folded", sa.String(200)))
    op.execute("UPDATE accounts SET email_folded = lower(email)")
    op.create_index("accounts_email_folded", "accounts", ["email_folded"])
    op.execute("UPDATE rates SET rate = 1.2 WHERE code = 'USD'")
