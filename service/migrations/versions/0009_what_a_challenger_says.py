"""what a challenger forecasts beside the champion, which nobody is told of"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "shadow_forecasts",
        sa.Column("gate_id", sa.String(length=128), nullable=False),
        sa.Column("component", sa.String(length=128), server_default="", nullable=False),
        sa.Column("as_of", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("model_version", sa.String(length=128), nullable=False),
        sa.Column("verdict", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.String(length=32), server_default="", nullable=False),
        sa.Column("p_7d", sa.Float(precision=53), nullable=True),
        sa.Column("p_14d", sa.Float(precision=53), nullable=True),
        sa.Column("p_21d", sa.Float(precision=53), nullable=True),
        sa.Column("ttf_p10_d", sa.Float(precision=53), nullable=True),
        sa.Column("ttf_p50_d", sa.Float(precision=53), nullable=True),
        sa.Column("ttf_p90_d", sa.Float(precision=53), nullable=True),
        sa.Column("failure_mode", sa.String(length=64), server_default="", nullable=False),
        sa.Column("failure_mode_share", sa.Float(precision=53), nullable=True),
        sa.Column("lost", sa.Text(), server_default="", nullable=False),
        sa.Column("curve", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("gate_id", "component", "as_of", "model_version"),
        sqlite_with_rowid=False,
    )


def downgrade() -> None:
    op.drop_table("shadow_forecasts")
