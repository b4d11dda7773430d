"""Starlette's TestClient, imported once. It prefers `httpx2`; we have httpx, which serves as well, and say so in one place."""

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # "install httpx2 instead"
    from starlette.testclient import TestClient

__all__ = ["TestClient"]
