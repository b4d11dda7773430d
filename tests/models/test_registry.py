"""A registry that loads only what its manifest lists, and never half an alias."""

import hashlib
import io
import json
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from joblib.numpy_pickle import NumpyUnpickler

from models import drift, registry, signing
from models.policy import Policy
from models.registry import RegistryError
from service.cli import main
from tests.models.test_drift import draw

TRAINING = {"data_sha256": "0" * 64, "seed": 1}
REPORT = {"model": {"figures": {"ap_14d": {"value": 0.4, "low": 0.3, "high": 0.5}}}}


@pytest.fixture(scope="module")
def golden(unseen):
    rows = unseen.rows[unseen.rows["reason"] == ""]
    return rows[rows["as_of"] == sorted(rows["as_of"].unique())[200]].head(30)


@pytest.fixture(scope="module")
def stored(forecaster, golden, tmp_path_factory):
    """A registry with one version, `v1`, and no alias."""
    folder = tmp_path_factory.mktemp("registry")
    write(folder, "v1", forecaster, golden)
    return folder


def write(folder, version, forecaster, golden, card="# Model card\n", data_card="# Data card\n"):
    return registry.save(
        folder,
        version,
        forecaster=replace(forecaster, version=version),
        policy=Policy(0.3, tuned_gate_years=70.0, calibrated_here=True),
        training=TRAINING,
        metrics=REPORT,
        card=card,
        data_card=data_card,
        golden_rows=golden,
    )


@pytest.fixture
def folder(stored, tmp_path):
    """A copy of it, with its keys, to damage."""
    shutil.copytree(signing.keys_of(stored), tmp_path / "registry-keys")
    return Path(shutil.copytree(stored, tmp_path / "registry"))


def test_what_was_saved_is_loaded_with_the_same_forecasts(stored, forecaster, unseen):
    model = registry.load(stored, "v1")

    rows = unseen.rows.head(500)
    assert model.forecaster.predict(rows)["p_14d"].equals(forecaster.predict(rows)["p_14d"])
    assert (model.version, model.policy.open_at, model.policy.calibrated_here) == ("v1", 0.3, True)
    assert model.manifest["training"] == TRAINING
    assert model.manifest["made_with"]["scikit-learn"]


def test_a_reference_for_drift_is_kept_beside_the_model_and_verified_like_it(folder, forecaster, golden):
    reference = drift.learn(draw(12, 100, seed=1))
    given = {
        "policy": Policy(open_at=0.4),
        "training": {},
        "metrics": {},
        "card": "# card\n",
        "data_card": "# data\n",
        "golden_rows": golden,
    }

    kept = registry.save(folder, "with-reference", forecaster=forecaster, reference=reference, **given)

    assert kept.reference.to_json() == reference.to_json()
    assert registry.load(folder, "v1").reference is None
    file = folder / "with-reference" / "drift.json"
    file.write_bytes(file.read_bytes().replace(b"0.", b"1.", 1))
    with pytest.raises(RegistryError, match=r"drift.json is not the file the manifest lists"):
        registry.load(folder, "with-reference")


def test_the_same_model_makes_the_same_bytes(stored, forecaster, golden, tmp_path):
    shutil.copytree(signing.keys_of(stored), tmp_path / "registry-keys")
    write(tmp_path / "registry", "v1", forecaster, golden)

    for file in sorted((stored / "v1").iterdir()):
        assert (tmp_path / "registry" / "v1" / file.name).read_bytes() == file.read_bytes(), file.name


class Recorder(NumpyUnpickler):
    """Unpickles as joblib does and writes down every class it is asked for."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.found = set()

    def find_class(self, module, name):
        self.found.add(f"{module}.{name}")
        return super().find_class(module, name)


def test_the_artifact_holds_no_class_of_ours(stored):
    content = io.BytesIO((stored / "v1" / "model.joblib").read_bytes())
    recorder = Recorder("", content, ensure_native_byte_order=True)

    recorder.load()

    homes = {name.partition(".")[0] for name in recorder.found}
    assert homes <= {"sklearn", "numpy", "joblib", "builtins", "collections", "copyreg", "_codecs", "functools"}
    assert "sklearn" in homes


def resign(version, content):
    """Another manifest, signed by the registry's own key: what an insider, or a bug of ours, might write."""
    (version / "manifest.json").write_bytes(content)
    (version / "manifest.sig").write_bytes(signing.sign(signing.keys_of(version.parent), content))


def relist(version, **changes):
    """Write the manifest again with other contents."""
    manifest = json.loads((version / "manifest.json").read_text())
    resign(version, json.dumps(manifest | changes).encode())


def change_the_manifest(version):
    manifest = json.loads((version / "manifest.json").read_text())
    manifest["policy"]["open_at"] = 0.99
    (version / "manifest.json").write_text(json.dumps(manifest))


def sign_with_an_unknown_key(version):
    content = (version / "manifest.json").read_bytes()
    (version / "manifest.sig").write_bytes(Ed25519PrivateKey.generate().sign(content))


def link_the_signature(version):
    (version / "manifest.sig").rename(version.parent.parent / "sig")
    (version / "manifest.sig").symlink_to(version.parent.parent / "sig")


def borrow_a_signature(version):
    shutil.rmtree(version)
    shutil.copytree(version.parent / "lent", version)


def forget_the_keys(version):
    shutil.rmtree(signing.keys_of(version.parent))


def garble_a_trusted_key(version):
    (signing.keys_of(version.parent) / "trusted" / "other.pem").write_text("x")


def flip_a_byte(version):
    content = bytearray((version / "model.joblib").read_bytes())
    content[len(content) // 2] ^= 1
    (version / "model.joblib").write_bytes(bytes(content))


def swap_for_a_link(version):
    (version / "model.joblib").rename(version.parent.parent / "elsewhere.joblib")
    (version / "model.joblib").symlink_to(version.parent.parent / "elsewhere.joblib")


def list_a_path(name):
    def change(version):
        manifest = json.loads((version / "manifest.json").read_text())
        outside = version.parent.parent / "outside"
        outside.write_bytes(b"x")
        manifest["files"][name] = {"sha256": hashlib.sha256(b"x").hexdigest(), "size": 1}
        relist(version, files=manifest["files"])

    return change


def link_the_folder(version):
    version.rename(version.parent / "real")
    version.symlink_to(version.parent / "real")


DAMAGE = {
    "a flipped byte": (flip_a_byte, "model.joblib is not the file the manifest lists"),
    "a longer card": (lambda v: (v / "model_card.md").write_text("# Model card\nx"), "model_card.md is not the file"),
    "an extra file": (lambda v: (v / "extra.py").write_text("x"), "files its manifest does not list: extra.py"),
    "an extra folder": (lambda v: (v / "extra").mkdir(), "extra is not a plain file"),
    "a missing file": (lambda v: (v / "golden.parquet").unlink(), "lacks golden.parquet"),
    "no manifest": (lambda v: (v / "manifest.json").unlink(), "has no manifest.json"),
    "a changed manifest": (
        change_the_manifest,
        "manifest.sig is not of this manifest.json by a trusted key; trusted in .*: own-",
    ),
    "an unknown key": (sign_with_an_unknown_key, "manifest.sig is not of this manifest.json by a trusted key"),
    "half a signature": (lambda v: (v / "manifest.sig").write_bytes(b"x" * 32), "manifest.sig is not of this manifest.json"),
    "no signature": (lambda v: (v / "manifest.sig").unlink(), "is not signed: it has no manifest.sig"),
    "a signature link": (link_the_signature, "manifest.sig is not a plain file"),
    "the files of another": (borrow_a_signature, "manifest.json is that of model 'lent'"),
    "no trusted key": (forget_the_keys, "by a trusted key; trusted in .*: none"),
    "a garbled key": (garble_a_trusted_key, "nobody can say who signed it: .*other.pem must be an Ed25519 public key"),
    "a listed signature": (list_a_path("manifest.sig"), "which is not a plain file name"),
    "a broken manifest": (lambda v: resign(v, b"{"), "manifest.json is not JSON"),
    "another format": (lambda v: relist(v, format="other/1"), "format must be 'sluicewatch-model/1'; got 'other/1'"),
    "no hashes": (lambda v: relist(v, files={"model.joblib": {}}), "must give sha256 and size"),
    "no model listed": (lambda v: relist(v, files={}), "must list model.joblib"),
    "a file link": (swap_for_a_link, "model.joblib is not a plain file"),
    "a folder link": (link_the_folder, "is a symbolic link"),
    "a path out": (list_a_path("../outside"), "which is not a plain file name"),
    "an absolute path": (list_a_path("/etc/hostname"), "which is not a plain file name"),
    "another scikit-learn": (lambda v: relist(v, made_with={"scikit-learn": "1.2.3"}), "made with scikit-learn 1.2.3, here is"),
}


class Watch:
    """Counts, by Python's own audit events, the classes that unpickling asks for and the files that are opened."""

    def __init__(self):
        self.events = []
        self.watching = False
        sys.addaudithook(self)

    def __call__(self, event, arguments):
        if self.watching and event in ("pickle.find_class", "open", "os.system"):
            self.events.append((event, *map(str, arguments)))

    def __enter__(self):
        self.events.clear()
        self.watching = True
        return self

    def __exit__(self, *_):
        self.watching = False

    def unpickled(self):
        return [event for event in self.events if event[0] in ("pickle.find_class", "os.system")]


WATCH = Watch()  # a hook cannot be taken back, so there is one


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_refused_before_anything_is_unpickled(folder, forecaster, golden, damage):
    if damage == "the files of another":
        write(folder, "lent", forecaster, golden)
    change, message = DAMAGE[damage]
    change(folder / "v1")

    with WATCH, pytest.raises(RegistryError, match=message) as refusal:
        registry.load(folder, "v1")

    assert "\n" not in str(refusal.value)
    assert WATCH.unpickled() == []


def test_every_file_is_opened_once_and_unpickled_from_those_bytes(stored):
    with WATCH:
        registry.load(stored, "v1")

    opened = [Path(event[1]).name for event in WATCH.events if event[0] == "open" and "/v1/" in event[1]]
    assert sorted(opened) == sorted(file.name for file in (stored / "v1").iterdir())
    assert any("sklearn" in module for _, module, _ in WATCH.unpickled())


WHOLE = {
    "card": "# M\n\n## Intended use\n\n## Training data\n\n## Figures\n\n## Alarm threshold\n\n## Known weaknesses\n\n"
    "## How to remake it\n",
    "data_card": "# D\n\n## Source\n\n## Licence\n\n## Window\n\n## Missingness\n\n## Label process\n\n## Class counts\n",
}


def test_verifying_asks_for_both_cards_with_all_their_headings(folder, forecaster, golden):
    write(folder, "whole", forecaster, golden, **WHOLE)
    write(folder, "no-labels", forecaster, golden, **WHOLE | {"data_card": WHOLE["data_card"].replace("## Label", "Label")})
    files = json.loads((folder / "v1" / "manifest.json").read_text())["files"]
    (folder / "v1" / "data_card.md").unlink()
    relist(folder / "v1", files={name: listed for name, listed in files.items() if name != "data_card.md"})

    assert registry.verify(folder, "whole").version == "whole"
    with pytest.raises(RegistryError, match="'no-labels': data_card.md lacks the headings Label process$"):
        registry.verify(folder, "no-labels")
    with pytest.raises(RegistryError, match="'v1': model_card.md lacks the headings Intended use, "):
        registry.verify(folder, "v1")
    answer = CliRunner().invoke(main, ["models", "verify", "no-labels", "--registry", str(folder)])
    assert (answer.exit_code, answer.output.count("\n")) == (2, 1)


def test_the_manifest_gives_every_feature_its_unit(stored, forecaster):
    schema = registry.load(stored, "v1").manifest["feature_schema"]

    units = dict(zip(forecaster.features, schema["units"], strict=True))
    assert (units["vibration_level_mm_s"], units["temperature_dev"], units["vibration_slope_7d"]) == ("mm/s", "K", "1/d")
    swapped = registry._feature_schema([*forecaster.features[1:], forecaster.features[0]])
    assert swapped["sha256"] != schema["sha256"]


def test_a_model_of_another_machine_loads_once_its_key_is_trusted(stored, tmp_path):
    there = Path(shutil.copytree(stored, tmp_path / "registry"))
    (public,) = (signing.keys_of(stored) / "trusted").iterdir()
    with pytest.raises(RegistryError, match="trusted in .*: none"):
        registry.load(there, "v1")

    signing.trust(signing.keys_of(there), public, "trainer")
    assert registry.load(there, "v1").version == "v1"

    signing.remove(signing.keys_of(there), "trainer")
    with pytest.raises(RegistryError, match="trusted in .*: none"):
        registry.load(there, "v1")


def test_the_shipped_champion_is_trusted_by_the_hash_in_the_code_alone(tmp_path):
    champion = registry.ARTIFACTS / registry.aliases(registry.ARTIFACTS)["champion"]

    assert hashlib.sha256((champion / "manifest.json").read_bytes()).hexdigest() == registry.SHIPPED_MANIFEST_SHA256
    assert not signing.keys_of(registry.ARTIFACTS).exists()
    assert registry.load(registry.ARTIFACTS).version == champion.name


def test_a_seeded_registry_still_loads_its_champion_when_another_is_shipped(tmp_path, monkeypatch):
    seeded = registry.seed(tmp_path / "registry")

    monkeypatch.setattr(registry, "SHIPPED_MANIFEST_SHA256", "0" * 64)

    assert registry.load(tmp_path / "registry").version == seeded
    with pytest.raises(RegistryError, match="is not signed"):
        registry.load(registry.ARTIFACTS)


def test_a_model_that_forecasts_otherwise_here_is_refused(folder):
    manifest = json.loads((folder / "v1" / "manifest.json").read_text())
    manifest["forecaster"]["calibration"]["intercept"] += 0.1
    relist(folder / "v1", forecaster=manifest["forecaster"])

    with pytest.raises(RegistryError, match="does not reproduce its golden forecasts"):
        registry.load(folder, "v1")


def test_a_version_is_never_written_twice(stored, forecaster, golden):
    before = {file.name: file.read_bytes() for file in (stored / "v1").iterdir()}

    with pytest.raises(RegistryError, match="'v1' exists"):
        write(stored, "v1", forecaster, golden)

    assert {file.name: file.read_bytes() for file in (stored / "v1").iterdir()} == before


@pytest.mark.parametrize("name", ["", "champion", "../x", "a/b", ".hidden", "x" * 65, "ein-ü"])
def test_a_name_that_is_no_version_is_refused(stored, forecaster, golden, name):
    with pytest.raises(RegistryError, match="a version is named by"):
        write(stored, name, forecaster, golden)


def test_an_unknown_model_is_refused_with_those_there_are(stored):
    with pytest.raises(RegistryError, match=r"no model 'v9' in .*; versions there: v1"):
        registry.load(stored, "v9")


def test_promotion_and_rollback_move_the_aliases(folder, forecaster, golden):
    write(folder, "v2", forecaster, golden)

    registry.promote(folder, "v1")
    registry.promote(folder, "v2")
    promoted = registry.aliases(folder)
    back = registry.rollback(folder)

    assert promoted == {"champion": "v2", "previous": "v1"}
    assert back.version == registry.load(folder).version == "v1"
    assert registry.aliases(folder) == {"champion": "v1", "previous": "v2"}
    assert [(v.version, v.aliases) for v in registry.list_versions(folder)] == [("v1", ("champion",)), ("v2", ("previous",))]


def test_promoting_the_champion_again_keeps_the_previous_one(folder, forecaster, golden):
    write(folder, "v2", forecaster, golden)
    for version in ("v1", "v2", "v2"):
        registry.promote(folder, version)

    assert registry.aliases(folder) == {"champion": "v2", "previous": "v1"}


def test_without_a_previous_champion_there_is_no_way_back(folder):
    registry.promote(folder, "v1")

    with pytest.raises(RegistryError, match="no previous champion"):
        registry.rollback(folder)


def test_a_damaged_model_cannot_be_promoted(folder):
    flip_a_byte(folder / "v1")

    with pytest.raises(RegistryError):
        registry.promote(folder, "v1")

    assert registry.aliases(folder) == {}


def test_a_switch_that_dies_leaves_the_old_alias(folder, forecaster, golden, monkeypatch):
    write(folder, "v2", forecaster, golden)
    registry.promote(folder, "v1")
    before = (folder / "aliases.json").read_bytes()

    def dies(*_):
        raise OSError("power cut")

    for step in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, step, dies)
            with pytest.raises(OSError, match="power cut"):
                registry.promote(folder, "v2")

        assert (folder / "aliases.json").read_bytes() == before
    assert sorted(p.name for p in folder.iterdir()) == ["aliases.json", "v1", "v2"]


def test_an_empty_registry_is_seeded_once_with_the_shipped_champion(folder, tmp_path):
    registry.promote(folder, "v1")
    new = tmp_path / "new"

    first, again = registry.seed(new, shipped=folder), registry.seed(new, shipped=folder)

    assert first == again == registry.load(new).version == "v1"
    assert sorted(p.name for p in new.iterdir()) == ["aliases.json", "v1"]
    assert registry.shipped_policy(folder) == registry.load(new).policy


def test_seeding_keeps_a_champion_of_ones_own(folder, forecaster, golden, tmp_path):
    registry.promote(folder, "v1")
    own = tmp_path / "own"
    write(own, "mine", forecaster, golden)
    registry.promote(own, "mine")

    assert registry.seed(own, shipped=folder) == "mine"
    assert registry.load(own).version == "mine"
