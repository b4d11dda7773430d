"""what a model is shown, and how it compares with what it learnt from"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "drift_days",
        sa.Column("as_of", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("gate_id", sa.String(length=128), nullable=False),
        sa.Column("model_version", sa.String(length=128), nullable=False),
        sa.Column("shown", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("as_of", "gate_id"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "drift_reports",
        sa.Column("as_of", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("model_version", sa.String(length=128), nullable=False),
        sa.Column("drifted", sa.Text(), nullable=False),
        sa.Column("features", sa.Text(), nullable=False),
        sa.Column("gates_unlike", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("as_of"),
    )


def downgrade() -> None:
    op.drop_table("drift_reports")
    op.drop_table("drift_days")
