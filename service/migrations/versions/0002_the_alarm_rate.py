"""the log of cases and the achieved rate of false alarms"""

from __future__ import annotations

import json

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

DAY_MS = 86_400_000


def upgrade() -> None:
    case_log = op.create_table(
        "case_log",
        sa.Column("gate_id", sa.String(length=128), nullable=False),
        sa.Column("component", sa.String(length=128), server_default="", nullable=False),
        sa.Column("opened_as_of", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("closed_as_of", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("gate_id", "component", "opened_as_of"),
    )
    with op.batch_alter_table("case_log", schema=None) as batch_op:
        batch_op.create_index("ix_case_log_closed", ["closed_as_of"], unique=False)
    op.create_table(
        "alarm_rates",
        sa.Column("as_of", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("false_alarms", sa.Integer(), nullable=False),
        sa.Column("gate_years", sa.Float(precision=53), nullable=False),
        sa.Column("budget_per_gate_year", sa.Float(precision=53), nullable=False),
        sa.PrimaryKeyConstraint("as_of"),
    )
    op.add_column("scoring_runs", sa.Column("gates_with_verdict", sa.Integer(), server_default="0", nullable=False))

    connection = op.get_bind()
    cases = connection.execute(_OPENED).all()
    if cases:
        op.bulk_insert(case_log, [_logged(*row) for row in cases])
    connection.execute(_COUNT_VERDICTS)


_OPENED = sa.text(
    "SELECT a.gate_id, a.component, a.opened_as_of, a.as_of, a.state, c.state, "
    "a.opened_as_of = (SELECT max(b.opened_as_of) FROM alerts b WHERE b.gate_id = a.gate_id AND b.component = a.component) "
    "FROM alerts a LEFT JOIN cases c ON c.gate_id = a.gate_id AND c.component = a.component"
)
_COUNT_VERDICTS = sa.text(
    "UPDATE scoring_runs SET gates_with_verdict = (SELECT count(*) FROM forecasts f WHERE f.as_of = scoring_runs.as_of "
    "AND f.component = '' AND f.verdict = 'forecast')"
)


def _logged(
    gate_id: str, component: str, opened_as_of: int, as_of: int, alert_state: str, case_state: str | None, newest: bool
) -> dict[str, object]:
    """An alert as the case it was opened for; a case's end was not kept, it closed on the day after its last numbers."""
    case_is_open = newest and case_state is not None and json.loads(case_state)["open"]
    is_open = alert_state != "resolved" or case_is_open
    return {
        "gate_id": gate_id,
        "component": component,
        "opened_as_of": opened_as_of,
        "closed_as_of": None if is_open else as_of + DAY_MS,
    }


def downgrade() -> None:
    with op.batch_alter_table("scoring_runs", schema=None) as batch_op:
        batch_op.drop_column("gates_with_verdict")
    op.drop_table("alarm_rates")
    op.drop_table("case_log")
