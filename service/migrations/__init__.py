"""Alembic's folder: how a database gets from any earlier schema to this version's. `service.store.migrate` runs it."""
