"""which dataset brought a gate, and under which licence"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for name in ("source", "licence"):
        op.add_column("gates", sa.Column(name, sa.Text))


def downgrade() -> None:
    with op.batch_alter_table("gates", schema=None) as batch_op:
        for name in ("source", "licence"):
            batch_op.drop_column(name)
