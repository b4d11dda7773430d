"""Commands of whoever runs it: API keys and what was put in quarantine."""

from __future__ import annotations

import click

from service.cli.parts import actor, database_option, open_database, option, wall


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


@quarantine_group.command(name="list")
@option("--limit", type=click.IntRange(1, 10_000), default=20, show_default=True, help="The newest so many.")
@database_option
def quarantine_list(limit: int, database: str) -> None:
    """Print the newest refused messages with their reason.

    \b
    sluicewatch quarantine list --limit 5
    """
    import sqlalchemy as sa

    from pipeline import historian

    query = sa.select(historian.quarantine).order_by(historian.quarantine.c.quarantine_id.desc()).limit(limit)
    with open_database(database).connect() as connection:
        for row in connection.execute(query):
            click.echo(f"{row.received_at:%Y-%m-%d %H:%M:%S}  {row.reason}  {row.topic}  {row.detail}")
