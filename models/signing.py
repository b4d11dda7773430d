"""Who may write models: the key pair beside a registry, and the public keys that are trusted there. No clock, no network.

``<registry>-keys/`` lies beside the registry and not in it, so that a registry can be copied whole without its secret:
``private.pem`` signs what is registered here, and a model is believed when one of ``trusted/*.pem`` has signed its
manifest. Whoever may write this folder decides what is loaded.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from pipeline.errors import BadInput

PRIVATE = "private.pem"
TRUSTED = "trusted"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")


class SigningError(BadInput):
    """A key that is missing, taken, not trusted or not a key; one line that says which."""


@dataclass(frozen=True, slots=True)
class TrustedKey:
    """A public key that is believed.

    Attributes
    ----------
    fingerprint : first 16 hexadecimal digits of the SHA-256 of its 32 bytes, to be compared by telephone
    signs_here : whether its private half is here
    """

    name: str
    fingerprint: str
    signs_here: bool


def keys_of(registry: Path) -> Path:
    """Return the folder of a registry's keys, beside it: ``registry/`` has ``registry-keys/``."""
    folder = registry.resolve()
    return folder.with_name(f"{folder.name}-keys")


def make_pair(keys: Path) -> TrustedKey:
    """Make the key pair and trust it.

    Raises
    ------
    SigningError
        There is one already, or the folder cannot be written.
    """
    private = Ed25519PrivateKey.generate()
    fingerprint = _fingerprint(private.public_key())
    public_file = keys / TRUSTED / f"own-{fingerprint[:8]}.pem"
    secret = private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    try:
        public_file.parent.mkdir(parents=True, exist_ok=True)
        (keys / ".gitignore").write_text("*\n", encoding="ascii")
        # trusted before it can sign: whoever finds the private key finds it trusted, also after a kill
        public_file.write_bytes(_public_pem(private.public_key()))
        descriptor, temporary = tempfile.mkstemp(prefix=".private-", dir=keys)  # mode 0600
        try:
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(secret)
                stream.flush()
                os.fsync(stream.fileno())
            os.link(temporary, keys / PRIVATE)
        except FileExistsError:
            public_file.unlink()
            raise SigningError(f"{keys / PRIVATE} exists; a key pair is never written over") from None
        finally:
            Path(temporary).unlink()
    except OSError as error:
        raise SigningError(f"keys: {keys} cannot be written: {error.strerror}") from None
    return TrustedKey(public_file.stem, fingerprint, signs_here=True)


def ready(keys: Path) -> Ed25519PrivateKey:
    """Return the private key, made when there is none.

    Raises
    ------
    SigningError
        It cannot be used, or is not trusted here: what it signed could not be loaded again.
    """
    if not (keys / PRIVATE).exists():
        try:
            make_pair(keys)
        except SigningError:
            if not (keys / PRIVATE).exists():  # else another process was first, and its pair is as good
                raise
    private = _private(keys)
    fingerprint = _fingerprint(private.public_key())
    if fingerprint not in map(_fingerprint, _trusted(keys).values()):
        raise SigningError(
            f"the key in {keys / PRIVATE} ({fingerprint}) is not trusted here, so what it signs could not be loaded"
        )
    return private


def sign(keys: Path, content: bytes) -> bytes:
    """Return the Ed25519 signature of some bytes, 64 bytes; the key pair is made when there is none."""
    return ready(keys).sign(content)


def signer(keys: Path, content: bytes, signature: bytes) -> str | None:
    """Return the name of the trusted key that signed these bytes; None when none did."""
    for name, key in _trusted(keys).items():
        try:
            key.verify(signature, content)
        except InvalidSignature:
            continue
        return name
    return None


def list_trusted(keys: Path) -> list[TrustedKey]:
    """Every trusted key, by name."""
    own = ""
    with suppress(SigningError):  # a process that only loads models need not be able to read it
        own = _fingerprint(_private(keys).public_key())
    found = {name: _fingerprint(key) for name, key in _trusted(keys).items()}
    return [TrustedKey(name, fingerprint, fingerprint == own) for name, fingerprint in found.items()]


def trust(keys: Path, file: Path, name: str | None = None) -> TrustedKey:
    """Believe what another key signs: copy its public half into the trusted ones.

    Parameters
    ----------
    file : an Ed25519 public key in PEM
    name : the file's stem when left out

    Raises
    ------
    SigningError
        It is no such key, or the name is taken or cannot be used.
    """
    name = file.stem if name is None else name
    if not _NAME.match(name):
        raise SigningError(f"a key is named by 1 to 64 letters, digits, '.', '_' or '-'; got {name!r}")
    key = _load_public(file)
    target = keys / TRUSTED / f"{name}.pem"
    if target.exists():
        raise SigningError(f"a trusted key is named {name!r} already; choose another name, or remove that one")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(_public_pem(key))
    except OSError as error:
        raise SigningError(f"keys: {keys} cannot be written: {error.strerror}") from None
    return TrustedKey(name, _fingerprint(key), signs_here=False)


def remove(keys: Path, name: str) -> None:
    """Believe a key no longer: what it alone has signed is not loaded again."""
    if name not in _trusted(keys):
        raise SigningError(f"no key {name!r} is trusted; trusted are: {', '.join(_trusted(keys)) or 'none'}")
    (keys / TRUSTED / f"{name}.pem").unlink()


def _trusted(keys: Path) -> dict[str, Ed25519PublicKey]:
    return {file.stem: _load_public(file) for file in sorted((keys / TRUSTED).glob("*.pem"))}


def _private(keys: Path) -> Ed25519PrivateKey:
    file = keys / PRIVATE
    try:
        if file.stat().st_mode & 0o077:
            raise SigningError(f"{file} can be read by others; make it yours alone: chmod 600")
        key = serialization.load_pem_private_key(file.read_bytes(), password=None)
    except OSError as error:
        raise SigningError(f"{file} cannot be read: {error.strerror}") from None
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise SigningError(f"{file} must be an Ed25519 private key in PEM without a password") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise SigningError(f"{file} must be an Ed25519 private key; got {type(key).__name__}")
    return key


def _load_public(file: Path) -> Ed25519PublicKey:
    try:
        key = serialization.load_pem_public_key(file.read_bytes())
    except OSError as error:
        raise SigningError(f"{file} cannot be read: {error.strerror}") from None
    except (ValueError, UnsupportedAlgorithm):
        raise SigningError(f"{file} must be an Ed25519 public key in PEM") from None
    if not isinstance(key, Ed25519PublicKey):
        raise SigningError(f"{file} must be an Ed25519 public key; got {type(key).__name__}")
    return key


def _public_pem(key: Ed25519PublicKey) -> bytes:
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def _fingerprint(key: Ed25519PublicKey) -> str:
    return hashlib.sha256(key.public_bytes_raw()).hexdigest()[:16]
