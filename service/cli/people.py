"""Commands of whoever runs it: API keys and what was put in quarantine."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import click

from service.cli.parts import actor, database_option, load_mapping, mapping_option, open_database, option, wall

_RETRIED_AT_ONCE = 500
"""Messages in one transaction, so that a running ingest is never kept waiting for long."""


@click.group(name="keys")
def keys_group() -> None:
    """Create, list and revoke API keys."""


@keys_group.command(name="create")
@click.argument("name")
@option("--scope", "scopes", multiple=True, help="What the key may do; several allowed. Default: everything.")
@database_option
def keys_create(name: str, scopes: tuple[str, ...], database: str) -> None:
    """Make a key and print it once.

    \b
    sluicewatch keys create "duty room" --scope alerts:read --scope alerts:write
    """
    from service.api import auth, keys

    made = auth.create_key(open_database(database), name=name, scopes=scopes or tuple(keys.SCOPES), at=wall(), actor=actor())
    click.echo(made.text)


@keys_group.command(name="list")
@database_option
def keys_list(database: str) -> None:
    """List the keys, without their secret part.

    \b
    sluicewatch keys list
    """
    from service import store

    with open_database(database).connect() as connection:
        for row in store.list_api_keys(connection):
            state = "revoked" if row["revoked_at"] else "live"
            click.echo(f"{row['key_id']}  {state}  {row['name']}  {','.join(row['scopes'])}")


@keys_group.command(name="revoke")
@click.argument("key_id")
@database_option
def keys_revoke(key_id: str, database: str) -> None:
    """Revoke a key at once.

    \b
    sluicewatch keys revoke 4fZk81Qa
    """
    from pipeline import historian
    from service import store

    with historian.writing(open_database(database)) as connection:
        store.revoke_api_key(connection, key_id, at=wall(), actor=actor())
    click.echo(f"{key_id} is revoked")


@click.group(name="quarantine")
def quarantine_group() -> None:
    """What arrived and could not be used."""


_reason_option = click.option("--reason", default=None, help="Only those refused for this reason.")
_level_option = click.option("--topic", "level", default=None, help="Only those with this level in the topic: a gate, a device.")


@quarantine_group.command(name="list")
@option("--limit", type=click.IntRange(1, 10_000), default=20, show_default=True, help="The newest so many.")
@click.option("--payload", "shows_payload", is_flag=True, help="What each held, too: what cannot be printed, written out.")
@_reason_option
@_level_option
@database_option
def quarantine_list(limit: int, shows_payload: bool, reason: str | None, level: str | None, database: str) -> None:
    """Print the newest refused messages with their reason, and how many were refused in all.

    \b
    sluicewatch quarantine list --limit 5
    sluicewatch quarantine list --reason unknown_gate --topic DSH-S1-G1
    """
    from pipeline import historian

    with open_database(database).connect() as connection:
        for row in historian.list_quarantine(connection, reason=reason, level=level, limit=limit):
            click.echo(f"{row.received_at:%Y-%m-%d %H:%M:%S}  {row.reason}  {row.topic}  {row.detail}")
            if shows_payload:
                click.echo(f"    {str(row.payload)[2:-1]}")
        tallies = historian.load_tallies(connection)
    prefix = historian.refused("")
    refused = Counter({name.removeprefix(prefix): n for name, n in tallies.items() if n and name.startswith(prefix)})
    if refused:
        click.echo("refused in all: " + ", ".join(f"{n} {name}" for name, n in refused.most_common()))


@quarantine_group.command(name="retry")
@_reason_option
@_level_option
@mapping_option
@database_option
def quarantine_retry(reason: str | None, level: str | None, mapping: Path | None, database: str) -> None:
    """Judge refused messages again, once a gate is registered, a channel declared or the mapping file mended.

    What can be used now is stored as of the time it came and leaves quarantine; the rest stays, with what is wrong with it now.

    \b
    sluicewatch quarantine retry --reason unknown_gate
    sluicewatch quarantine retry --mapping mapping.toml
    """
    from pipeline import historian
    from pipeline.adapters.dialects import Dialects
    from pipeline.intake import retry

    engine = open_database(database)
    dialects = Dialects(load_mapping(mapping, engine))
    with engine.connect() as connection:
        rows = historian.list_quarantine(connection, reason=reason, level=level)[::-1]
    stored, refused = 0, Counter[str]()
    for start in range(0, len(rows), _RETRIED_AT_ONCE):
        with historian.writing(engine) as connection:
            retried = retry(connection, rows[start : start + _RETRIED_AT_ONCE], dialects)
        stored += retried.stored
        refused += retried.refused
    told = "".join(f"; {n} {reason}" for reason, n in refused.most_common())
    click.echo(f"{stored} of {len(rows)} messages can be used now and are stored{told}")
