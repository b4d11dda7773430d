"""Key pairs and trust, against the test vectors of RFC 8032."""

import shutil
import stat
import subprocess

import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from models import signing
from models.signing import SigningError
from service.cli import main
from tests.conftest import missing

# RFC 8032, section 7.1, test 2
SECRET = bytes.fromhex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb")
PUBLIC = bytes.fromhex("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c")
SIGNED_72 = bytes.fromhex(
    "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
)


def pem(key):
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return key.private_bytes(*form)


def public_pem(key):
    return key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


@pytest.fixture
def keys(tmp_path):
    return signing.keys_of(tmp_path / "registry")


def test_it_signs_as_the_standard_says(keys, tmp_path):
    key = Ed25519PrivateKey.from_private_bytes(SECRET)
    (tmp_path / "rfc.pem").write_bytes(public_pem(key))
    signing.trust(keys, tmp_path / "rfc.pem")
    (keys / "private.pem").touch(0o600)
    (keys / "private.pem").write_bytes(pem(key))

    assert signing.sign(keys, b"\x72") == SIGNED_72
    assert signing.signer(keys, b"\x72", SIGNED_72) == "rfc"
    assert signing.signer(keys, b"\x73", SIGNED_72) is None
    assert [(k.name, k.signs_here) for k in signing.list_trusted(keys)] == [("rfc", True)]


def test_openssl_verifies_what_was_signed(keys, tmp_path):
    openssl = shutil.which("openssl") or missing("openssl is not on this machine (Debian: apt-get install openssl)")
    made = signing.make_pair(keys)
    (tmp_path / "manifest").write_bytes(b"{}\n")
    (tmp_path / "sig").write_bytes(signing.sign(keys, b"{}\n"))

    command = [openssl, "pkeyutl", "-verify", "-pubin", "-inkey", keys / "trusted" / f"{made.name}.pem", "-rawin"]
    done = subprocess.run([*command, "-in", tmp_path / "manifest", "-sigfile", tmp_path / "sig"], capture_output=True)

    assert done.returncode == 0, done.stderr


def test_the_pair_lies_beside_the_registry_and_is_its_owners_alone(keys, tmp_path):
    made = signing.make_pair(keys)

    assert keys == tmp_path / "registry-keys"
    assert stat.S_IMODE((keys / "private.pem").stat().st_mode) == 0o600
    assert sorted(file.name for file in keys.iterdir()) == [".gitignore", "private.pem", "trusted"]
    assert signing.list_trusted(keys) == [made]


def test_a_pair_is_made_once(keys):
    signing.make_pair(keys)
    before = (keys / "private.pem").read_bytes()

    with pytest.raises(SigningError, match="never written over"):
        signing.make_pair(keys)
    signing.sign(keys, b"x")

    assert (keys / "private.pem").read_bytes() == before
    assert len(list((keys / "trusted").iterdir())) == 1


def test_a_key_that_is_not_trusted_does_not_sign(keys):
    made = signing.make_pair(keys)
    signing.remove(keys, made.name)

    with pytest.raises(SigningError, match=f"{made.fingerprint}.* is not trusted here"):
        signing.sign(keys, b"x")


def other_kind(file):
    file.write_bytes(pem(generate_private_key(SECP256R1())))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda file: file.chmod(0o644), "can be read by others; make it yours alone: chmod 600"),
        (lambda file: file.write_bytes(b"x"), "must be an Ed25519 private key in PEM"),
        (other_kind, "must be an Ed25519 private key; got "),
    ],
)
def test_a_private_key_that_cannot_be_used_says_why(keys, spoil, message):
    signing.make_pair(keys)
    spoil(keys / "private.pem")

    with pytest.raises(SigningError, match=message) as refusal:
        signing.sign(keys, b"x")

    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read: No such file"),
        (b"x", "must be an Ed25519 public key in PEM"),
        (pem(Ed25519PrivateKey.from_private_bytes(SECRET)), "must be an Ed25519 public key in PEM"),
        (public_pem(generate_private_key(SECP256R1())), "must be an Ed25519 public key; got "),
    ],
)
def test_only_a_public_key_can_be_trusted(keys, tmp_path, content, message):
    if content is not None:
        (tmp_path / "key.pem").write_bytes(content)

    with pytest.raises(SigningError, match=message):
        signing.trust(keys, tmp_path / "key.pem")

    assert signing.list_trusted(keys) == []


def test_the_commands_make_list_trust_and_remove_keys(tmp_path):
    def run(*arguments):
        return CliRunner().invoke(main, ["models", "keys", *arguments, "--registry", str(tmp_path / "registry")])

    (tmp_path / "zhang.pem").write_bytes(public_pem(Ed25519PrivateKey.from_private_bytes(SECRET)))
    empty, made, trusted = run("list"), run("init"), run("trust", str(tmp_path / "zhang.pem"))
    listed, twice, removed = run("list"), run("trust", str(tmp_path / "zhang.pem")), run("remove", "zhang")
    unknown = run("remove", "nobody")

    assert "no trusted keys in" in empty.output
    assert "signs models from now on" in made.output
    # the fingerprint by another way: printf 3d40…660c | xxd -r -p | sha256sum
    assert "zhang (39f713d0a644253f) are loaded" in trusted.output
    assert [line.split()[2:] for line in listed.output.splitlines()] == [["signs", "here"], []]
    assert "a trusted key is named 'zhang' already" in twice.output
    assert removed.output == "zhang is not trusted any longer\n"
    assert (unknown.exit_code, unknown.output.count("\n")) == (2, 1)
