"""which stations each of several ingest processes hears"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "ingest_shares",
        sa.Column("share", sa.Text(), nullable=False),
        sa.Column("stations", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("share"),
    )


def downgrade() -> None:
    op.drop_table("ingest_shares")
