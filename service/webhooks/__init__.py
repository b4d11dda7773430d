"""Webhooks: how a body is signed, where it may be sent, and one file per kind of receiver."""
