"""Settings: what a person may have got wrong comes back as one line; the key file is nobody else's."""

import ipaddress
import stat
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from threading import Barrier

import pytest

from pipeline.errors import BadInput
from service import settings
from service.settings import Settings
from service.webhooks.standard import Vault, new_secret


def test_what_is_not_given_keeps_its_default_and_defaults_guard_the_network() -> None:
    found = Settings.gather({"database": None, "webhook_allow_cidrs": ""})

    assert found == Settings()
    assert not found.guard.allows("10.1.2.3")
    assert not found.guard.allows("127.0.0.1")
    assert (found.guard.allow_http, found.guard.ports) == (False, (443, 8443))
    assert found.grace == timedelta(minutes=15)


def test_an_operator_opens_exactly_what_is_named() -> None:
    found = Settings.gather({"webhook_allow_cidrs": "10.1.0.0/16, fd00::/8", "webhook_ports": "443,9443", "clock": "data"})

    assert found.guard.allow_cidrs == (ipaddress.ip_network("10.1.0.0/16"), ipaddress.ip_network("fd00::/8"))
    assert found.guard.ports == (443, 9443)
    assert found.guard.allows("10.1.2.3")
    assert not found.guard.allows("169.254.169.254")
    assert found.grace == timedelta(0)


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"clock": "sundial"}, "clock: .*'wall' or 'data'.*got 'sundial'"),
        ({"grace_s": "-1"}, "grace_s: .*greater than or equal to 0.*got '-1'"),
        ({"backlog_days": "many"}, "backlog_days: .*integer.*got 'many'"),
        ({"public_url": "gates.example"}, "public_url: allowed is the http.*got 'gates.example'"),
        ({"webhook_allow_cidrs": "10.1.0.0/16,our network"}, "webhook_allow_cidrs: .*'our network' is none"),
        ({"webhook_allow_cidrs": "10.1.2.3/16"}, "webhook_allow_cidrs: .*'10.1.2.3/16' is none"),
        ({"webhook_ports": "443,https"}, "webhook_ports: allowed are port numbers"),
        ({"webhook_ports": "70000"}, "webhook_ports: allowed are port numbers"),
        ({"colour": "red"}, "colour: .*not permitted"),
    ],
)
def test_a_setting_that_cannot_be_used_is_named_in_one_line(given: Mapping[str, object], complaint: str) -> None:
    with pytest.raises(BadInput, match=complaint) as refused:
        Settings.gather(given)

    assert "\n" not in str(refused.value)


def test_a_wrong_secret_key_is_refused_without_being_shown() -> None:
    found = Settings.gather({"secret_key": "hunter2"})

    with pytest.raises(BadInput, match="secret key") as refused:
        found.vault()
    assert "hunter2" not in str(refused.value)
    assert "hunter2" not in repr(found)


def test_the_key_file_is_made_beside_the_database_for_its_owner_only_and_stays(tmp_path: Path) -> None:
    found = Settings.gather({"database": f"sqlite:///{tmp_path / 'gates.sqlite'}"})
    secret = new_secret()

    sealed = found.vault().seal(secret)

    path = tmp_path / settings.KEY_FILE
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert found.vault().open(sealed) == secret
    assert [file.name for file in tmp_path.iterdir()] == [settings.KEY_FILE]


def test_a_given_key_needs_no_file(tmp_path: Path) -> None:
    key = Vault.new_key().decode()
    found = Settings.gather({"database": f"sqlite:///{tmp_path / 'gates.sqlite'}", "secret_key": key})

    sealed = found.vault().seal("whsec_x")

    assert Vault(key.encode()).open(sealed) == "whsec_x"
    assert list(tmp_path.iterdir()) == []


def test_a_key_that_others_may_read_is_refused_with_the_command_that_mends_it(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_bytes(Vault.new_key())
    path.chmod(0o644)

    with pytest.raises(BadInput, match="chmod 600"):
        settings.read_or_make_key(path)


def test_a_folder_that_cannot_be_written_is_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")

    with pytest.raises(BadInput, match="secret key: cannot use the file"):
        settings.read_or_make_key(tmp_path / "file" / "key")


def test_processes_that_start_at_once_agree_on_one_key(tmp_path: Path) -> None:
    together = Barrier(8)

    def start(_: int) -> bytes:
        together.wait()
        return settings.read_or_make_key(tmp_path / "key")

    with ThreadPoolExecutor(8) as pool:
        keys = set(pool.map(start, range(8)))

    assert len(keys) == 1
    assert [file.name for file in tmp_path.iterdir()] == ["key"]


def test_without_a_file_database_the_key_lies_in_the_home_folder() -> None:
    assert settings.key_file_beside("postgresql://gates@db/gates") == Path(".sluicewatch") / settings.KEY_FILE
