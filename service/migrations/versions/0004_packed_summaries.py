"""summaries of operations and days as packed numbers, cut anew"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "summary_names",
        sa.Column("gate_id", sa.String(length=128), nullable=False),
        sa.Column("told_of", sa.String(length=16), nullable=False),
        sa.Column("names", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("gate_id", "told_of"),
        sqlite_with_rowid=False,
    )
    _cut_anew(sa.LargeBinary())


def downgrade() -> None:
    _cut_anew(sa.Text())
    op.drop_table("summary_names")


def _cut_anew(summary: sa.types.TypeEngine[Any]) -> None:
    """Forget what was cut, because summaries are written in another way now, and mark those days for the next scoring run."""
    op.execute(
        sa.text(
            "INSERT INTO dirty_days (gate_id, day_ms) SELECT gate_id, day_ms FROM days WHERE true "
            "UNION SELECT gate_id, started_ms - started_ms % 86400000 FROM operations WHERE true ON CONFLICT DO NOTHING"
        )
    )
    op.drop_table("operations")
    op.drop_table("days")
    op.create_table(
        "operations",
        sa.Column("gate_id", sa.String(length=128), nullable=False),
        sa.Column("started_ms", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("ended_ms", sa.BigInteger(), nullable=False),
        sa.Column("summary", summary, nullable=False),
        sa.PrimaryKeyConstraint("gate_id", "started_ms"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "days",
        sa.Column("gate_id", sa.String(length=128), nullable=False),
        sa.Column("day_ms", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("summary", summary, nullable=False),
        sa.PrimaryKeyConstraint("gate_id", "day_ms"),
        sqlite_with_rowid=False,
    )
