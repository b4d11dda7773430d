"""days that must be cut anew are marked anew by each reading

Whoever has cut a day tells by the mark whether readings came meanwhile, and need not keep them waiting.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("dirty_days", schema=None) as batch_op:
        batch_op.add_column(sa.Column("mark", sa.BigInteger(), server_default="0", nullable=False))


def downgrade() -> None:
    with op.batch_alter_table("dirty_days", schema=None) as batch_op:
        batch_op.drop_column("mark")
