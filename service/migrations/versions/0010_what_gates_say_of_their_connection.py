"""what a gate, or its will, said last of its connection"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("gates", schema=None) as batch_op:
        batch_op.add_column(sa.Column("connection", sa.String(length=16), nullable=True))
        batch_op.add_column(sa.Column("connection_at", sa.BigInteger(), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("gates", schema=None) as batch_op:
        batch_op.drop_column("connection_at")
        batch_op.drop_column("connection")
