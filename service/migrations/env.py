"""What Alembic runs: it uses the connection `service.store.migrate` hands over, and opens none by itself.

A new revision, written against a scratch database that is at the newest one:

    python -m service.migrations "what changes"
"""

from __future__ import annotations

from typing import Any, Literal

from alembic import context
from alembic.autogenerate.api import AutogenContext

from pipeline.historian import UtcMillis, metadata
from service.store import Json


def _render_item(kind: str, value: Any, autogen_context: AutogenContext) -> str | Literal[False]:
    # a migration must not change when our own column types do, so it names the plain ones beneath them
    if kind == "type" and isinstance(value, UtcMillis):
        return "sa.BigInteger()"
    if kind == "type" and isinstance(value, Json):
        return "sa.Text()"
    return False


context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_item=_render_item,
    render_as_batch=True,  # SQLite cannot alter most things of a table in place
    transaction_per_migration=False,
)
with context.begin_transaction():
    context.run_migrations()
