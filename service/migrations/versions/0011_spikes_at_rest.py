"""days cut anew: spikes are counted at rest, too"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        sa.text("INSERT INTO dirty_days (gate_id, day_ms) SELECT gate_id, day_ms FROM days WHERE true ON CONFLICT DO NOTHING")
    )


def downgrade() -> None:
    upgrade()
