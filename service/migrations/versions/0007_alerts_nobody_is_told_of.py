"""alerts whose notices are held"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "held_alerts",
        sa.Column("alert_id", sa.String(length=64), nullable=False),
        sa.Column("as_of", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("alert_id"),
    )


def downgrade() -> None:
    # what was held goes out: an older version has no word for it
    op.execute("UPDATE deliveries SET state = 'pending' WHERE state = 'held'")
    op.execute("UPDATE deliveries SET state = 'failed' WHERE state = 'dropped'")
    op.drop_table("held_alerts")
