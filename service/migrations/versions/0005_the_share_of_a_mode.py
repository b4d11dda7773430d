"""the share of a failure mode among those of its component"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for table in ("forecasts", "alerts"):
        op.add_column(table, sa.Column("failure_mode_share", sa.Float(53)))


def downgrade() -> None:
    for table in ("forecasts", "alerts"):
        with op.batch_alter_table(table, schema=None) as batch_op:
            batch_op.drop_column("failure_mode_share")
