"""days instead of rests, cut anew; what a forecast lost"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.rename_table("rests", "days")
    _cut_anew()
    op.add_column("forecasts", sa.Column("lost", sa.Text(), server_default="", nullable=False))


def downgrade() -> None:
    with op.batch_alter_table("forecasts", schema=None) as batch_op:
        batch_op.drop_column("lost")
    _cut_anew()
    op.rename_table("days", "rests")


def _cut_anew() -> None:
    """Forget what was cut, because summaries tell other things now, and mark those days for the next scoring run."""
    op.execute(
        sa.text(
            "INSERT INTO dirty_days (gate_id, day_ms) SELECT gate_id, day_ms FROM days WHERE true "
            "UNION SELECT gate_id, started_ms - started_ms % 86400000 FROM operations WHERE true ON CONFLICT DO NOTHING"
        )
    )
    op.execute(sa.text("DELETE FROM operations"))
    op.execute(sa.text("DELETE FROM days"))
