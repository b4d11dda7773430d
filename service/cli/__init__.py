"""The command `sluicewatch`: reads settings, opens what is real, asks what time it is, and wires the parts together.

Everything heavy is imported inside the command that needs it, so that ``--help`` answers at once. What a person got wrong
ends with one clear line and exit code 2.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import Any

import click

from pipeline.errors import BadInput, SluicewatchError
from service.cli import benches, data, integrating, people, running, science
from service.cli.parts import option


class _Group(click.Group):
    """Turns what went wrong on purpose into one line: exit code 2 for bad input, 1 for the rest."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except click.exceptions.NoArgsIsHelpError:
            raise
        except click.UsageError as error:
            click.echo(f"sluicewatch: {error.format_message()}", err=True)
            ctx.exit(2)
        except SluicewatchError as error:
            click.echo(f"sluicewatch: {error}", err=True)
            ctx.exit(2 if isinstance(error, BadInput) else 1)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="sluicewatch")
@option("--log-level", default="INFO", show_default=True, type=click.Choice(["DEBUG", "INFO", "WARNING", "ERROR"]), help="")
def main(log_level: str) -> None:
    """Predictive maintenance for water gates: from MQTT readings to a believable warning one to two weeks ahead."""
    logging.basicConfig(level=log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    for talkative in ("httpx", "httpcore", "alembic", "uvicorn.access"):
        logging.getLogger(talkative).setLevel(logging.WARNING)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # two threads of scikit-learn on a busy machine cost a thousand times


for command in (
    running.demo,
    running.up,
    running.migrate,
    running.ingest,
    running.score,
    running.deliver,
    running.serve,
    data.simulate,
    data.import_,
    data.export,
    data.maintenance_group,
    integrating.check,
    science.train,
    science.backtest,
    science.evaluate,
    science.models_group,
    benches.bench_group,
    people.keys_group,
    people.quarantine_group,
):
    main.add_command(command)
