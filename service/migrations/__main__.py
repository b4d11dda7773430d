"""For contributors: write a new revision from the difference between the newest one and the tables in the code."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import alembic.command

from pipeline.historian import connect
from service.store import alembic_config, migrate


def main(message: str) -> None:
    """Write `service/migrations/versions/<revision>_<message>.py`; read it before you commit it."""
    with tempfile.TemporaryDirectory() as folder:
        engine = connect(f"sqlite:///{Path(folder) / 'scratch.sqlite'}")
        migrate(engine)
        config = alembic_config()
        with engine.begin() as connection:
            config.attributes["connection"] = connection
            count = len(list((Path(__file__).parent / "versions").glob("0*.py")))
            alembic.command.revision(config, message, autogenerate=True, rev_id=f"{count + 1:04d}")
        engine.dispose()


if __name__ == "__main__":
    main(" ".join(sys.argv[1:]))
