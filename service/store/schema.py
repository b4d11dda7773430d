"""The schema: bringing a database to it, and refusing one that is behind. The steps are in `service.migrations`."""

from __future__ import annotations

from pathlib import Path

import alembic.command
import alembic.config
import alembic.runtime.migration
import alembic.script
from sqlalchemy.engine import Engine

from pipeline.errors import BadInput


def migrate(engine: Engine) -> None:
    """Bring the database to the newest schema; harmless when it is there already."""
    config = alembic_config()
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        alembic.command.upgrade(config, "head")


def check_schema(engine: Engine) -> None:
    """Make sure that the database has the schema this version knows.

    Raises
    ------
    BadInput
        It has not; the message says to run ``sluicewatch migrate``.
    """
    head = alembic.script.ScriptDirectory.from_config(alembic_config()).get_current_head()
    with engine.connect() as connection:
        found = alembic.runtime.migration.MigrationContext.configure(connection).get_current_revision()
    if found != head:
        raise BadInput(f"database: its schema is {found or 'empty'}, this version needs {head}; run `sluicewatch migrate`")


def alembic_config() -> alembic.config.Config:
    """Where Alembic finds the migrations."""
    config = alembic.config.Config()
    config.set_main_option("script_location", str(Path(__file__).parents[1] / "migrations"))
    config.set_main_option("path_separator", "os")
    return config
