"""The registry: a plain folder of immutable model versions and the aliases that point at them.

``<registry>/<version>/`` holds ``model.joblib``, ``metrics.json``, ``model_card.md``, ``data_card.md`` and
``golden.parquet``, ``manifest.json`` that lists them with their hashes, and ``manifest.sig`` that signs it;
``aliases.json`` names the ``champion`` and the ``previous`` one, ``promotions.jsonl`` says who changed that and why.

joblib executes what it loads. So every file is read once; the manifest's bytes must be signed by a key that
`models.signing` trusts here (the shipped champion's have their hash in this module instead), the other files must be what
the manifest lists, and only those same bytes are unpickled.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import io
import json
import os
import platform
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import scipy
import sklearn

from models import signing
from models.card import HEADINGS as MODEL_HEADINGS
from models.data_card import HEADINGS as DATA_HEADINGS
from models.drift import Reference
from models.forecast import Forecaster
from models.policy import Policy
from pipeline.errors import BadInput
from pipeline.features import unit_of

FORMAT = "sluicewatch-model/1"
ARTIFACTS = Path(__file__).parent / "artifacts"
"""The shipped registry, read-only at run time."""

SHIPPED_MANIFEST_SHA256 = "987badb7c6553793f3c1316778ec033190beb3226acbb78f1b2f9ca3c54ed28c"
"""Hash of the shipped champion's manifest, trusted in place of a signature; `make champion` tells the new one."""

MANIFEST, SIGNATURE, MODEL, METRICS, CARD, DATA_CARD, GOLDEN = (
    "manifest.json",
    "manifest.sig",
    "model.joblib",
    "metrics.json",
    "model_card.md",
    "data_card.md",
    "golden.parquet",
)
REFERENCE = "drift.json"
"""What the model learnt from, as far as `models.drift` asks; a version may lack it."""

ALIASES = "aliases.json"
PROMOTIONS = "promotions.jsonl"
CHAMPION, PREVIOUS, CHALLENGER = "champion", "previous", "challenger"
GOLDEN_TOLERANCE = 1e-6
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")


class RegistryError(BadInput):
    """A model or alias that is missing, damaged or made by something else; one line that says which and why."""


@dataclass(frozen=True, slots=True)
class Model:
    """A model that was verified and loaded."""

    version: str
    forecaster: Forecaster
    policy: Policy
    manifest: Mapping[str, Any]
    reference: Reference | None = None


@dataclass(frozen=True, slots=True)
class Listed:
    """A version as the registry's listing shows it; ``manifest`` is empty when it cannot be read."""

    version: str
    aliases: tuple[str, ...]
    manifest: Mapping[str, Any]


def versions_in_use() -> dict[str, str]:
    """Versions of what made a model and of what it depends on."""
    return {
        "sluicewatch": importlib.metadata.version("sluicewatch"),
        "python": platform.python_version(),
        "scikit-learn": str(sklearn.__version__),
        "numpy": str(np.__version__),
        "scipy": str(scipy.__version__),
        "joblib": str(joblib.__version__),
    }


def save(
    registry: Path,
    version: str,
    *,
    forecaster: Forecaster,
    policy: Policy,
    training: Mapping[str, Any],
    metrics: Mapping[str, Any],
    card: str,
    data_card: str,
    golden_rows: pd.DataFrame,
    reference: Reference | None = None,
    created_at: str | None = None,
) -> Model:
    """Write a new version, whole or not at all; a version that stands is never written again.

    Parameters
    ----------
    training : what it was trained on, plain values for the manifest
    golden_rows : DataFrame
        Feature rows whose forecasts are stored beside the model and must come out again wherever it is loaded.
    reference : what drift is measured from
    created_at : given by the caller, so that the same data and seed make the same manifest

    Raises
    ------
    RegistryError
        The name cannot be used, or the version exists.
    """
    check_free(registry, version)
    model = io.BytesIO()
    joblib.dump(dict(forecaster.parts), model)
    contents = {
        MODEL: model.getvalue(),
        METRICS: _json(metrics),
        CARD: card.encode(),
        DATA_CARD: data_card.encode(),
        GOLDEN: _golden(forecaster, golden_rows),
        **({REFERENCE: reference.to_json()} if reference else {}),
    }
    manifest = {
        "format": FORMAT,
        "version": version,
        "created_at": created_at,
        "made_with": versions_in_use(),
        "forecaster": forecaster.as_dict(),
        "feature_schema": _feature_schema(forecaster.features),
        "policy": policy.as_dict(),
        "training": dict(training),
        "figures": metrics["model"]["figures"] if "model" in metrics else {},
        "files": _listing(contents),
    }
    _write_version(registry, version, contents | {MANIFEST: _json(manifest)})
    return load(registry, version)


def save_tuned(
    registry: Path,
    version: str,
    *,
    parent: str,
    policy: Policy,
    tuned: Mapping[str, Any],
    card: str,
    recalibrated: Forecaster | None = None,
    reference: Reference | None = None,
    created_at: str | None = None,
) -> Model:
    """Write a new version that is its parent with another policy: the same artifact, its own card.

    Parameters
    ----------
    parent : version that stays as it is
    tuned : on what the policy was tuned, plain values for the manifest
    recalibrated : the parent's forecaster with another calibration; None leaves it and the golden forecasts as they are
    reference : what the drift of a recalibrated one is measured from

    Raises
    ------
    RegistryError
        The name cannot be used, the version exists, or the parent is damaged.
    """
    check_free(registry, version)
    contents, manifest = _verified(registry, parent)
    del contents[MANIFEST]
    contents[CARD] = card.encode()
    manifest |= {
        "version": version,
        "created_at": created_at,
        "policy": policy.as_dict(),
        "tuned": dict(tuned),
    }
    if recalibrated is not None:
        contents[GOLDEN] = _golden(recalibrated, pq.read_table(io.BytesIO(contents[GOLDEN])).to_pandas())
        contents.pop(REFERENCE, None)
        contents |= {REFERENCE: reference.to_json()} if reference else {}
        manifest["forecaster"] = recalibrated.as_dict()
    manifest["files"] = _listing(contents)
    _write_version(registry, version, contents | {MANIFEST: _json(manifest)})
    return load(registry, version)


def check_free(registry: Path, version: str) -> None:
    """Refuse a version name that cannot be used or is taken, before anything costly is done."""
    _check_name(version)
    if (registry / version).exists():
        raise RegistryError(f"model {version!r} exists in {registry}; versions are never changed, choose another name")


def load(registry: Path, name: str = CHAMPION) -> Model:
    """Verify and load a model by alias or version.

    Raises
    ------
    RegistryError
        No such model; no trusted key signed it; a file is missing, extra, a symbolic link or not what the manifest lists;
        it was made by another format or another minor version of scikit-learn; its golden forecasts do not come out.
        Nothing is unpickled before all files are verified.
    """
    version = resolve(registry, name)
    return _unpickle(version, *_verified(registry, version))


def verify(registry: Path, name: str = CHAMPION) -> Model:
    """Load a model and check besides that both its cards are there with all their headings.

    Raises
    ------
    RegistryError
        As `load`; or a card or one of its headings is missing.
    """
    version = resolve(registry, name)
    contents, manifest = _verified(registry, version)
    for file, headings in ((CARD, MODEL_HEADINGS), (DATA_CARD, DATA_HEADINGS)):
        found = set(re.findall(r"^## (.+?)\s*$", contents.get(file, b"").decode(errors="replace"), re.MULTILINE))
        lacking = [heading for heading in headings if heading not in found]
        if file not in contents:
            raise RegistryError(f"model {version!r} has no {file}")
        if lacking:
            raise RegistryError(f"model {version!r}: {file} lacks the headings {', '.join(lacking)}")
    return _unpickle(version, contents, manifest)


def resolve(registry: Path, name: str) -> str:
    """Return the version behind an alias; a version is returned as it is."""
    version = aliases(registry).get(name, name)
    _check_name(version)
    if not (registry / version).is_dir():
        known = ", ".join(sorted(listed.version for listed in list_versions(registry))) or "none"
        raise RegistryError(f"no model {name!r} in {registry}; versions there: {known}")
    return version


def aliases(registry: Path) -> dict[str, str]:
    """Return which version each alias points at; empty for a registry without aliases."""
    try:
        found = json.loads((registry / ALIASES).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise RegistryError(f"{registry / ALIASES} is not JSON: {error}") from None
    if not isinstance(found, dict) or not all(isinstance(v, str) for v in found.values()):
        raise RegistryError(f"{registry / ALIASES} must map alias to version")
    return found


def list_versions(registry: Path) -> list[Listed]:
    """Every version of the registry, sorted by name, without loading any."""
    if not registry.is_dir():
        return []
    pointed = aliases(registry)
    out = []
    for folder in sorted(registry.iterdir()):
        if folder.is_dir() and _NAME.match(folder.name) and (folder / MANIFEST).is_file():
            try:
                manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
            except ValueError:
                manifest = {}
            names = tuple(sorted(alias for alias, version in pointed.items() if version == folder.name))
            out.append(Listed(folder.name, names, manifest))
    return out


def promote(registry: Path, version: str) -> Model:
    """Make a version the champion after loading it once; the champion so far becomes `previous`.

    This is the switch. Whether a model deserves it is asked in `models.promotion`, by which people go.
    """
    model = load(registry, version)
    now = aliases(registry)
    if now.get(CHAMPION) != model.version:
        if CHAMPION in now:
            now[PREVIOUS] = now[CHAMPION]
        if now.get(CHALLENGER) == model.version:
            del now[CHALLENGER]
        _write_aliases(registry, now | {CHAMPION: model.version})
    return model


def set_challenger(registry: Path, version: str | None) -> None:
    """Say which version forecasts beside the champion; None ends that."""
    now = {alias: named for alias, named in aliases(registry).items() if alias != CHALLENGER}
    _write_aliases(registry, now if version is None else now | {CHALLENGER: version})


def rollback(registry: Path) -> Model:
    """Exchange champion and `previous`."""
    now = aliases(registry)
    if PREVIOUS not in now or CHAMPION not in now:
        raise RegistryError(f"{registry} has no previous champion to go back to")
    return promote(registry, now[PREVIOUS])


def append_promotion(registry: Path, facts: Mapping[str, Any]) -> None:
    """Append a line to the record of promotions; nothing here changes or deletes one."""
    line = json.dumps(facts, ensure_ascii=False) + "\n"
    descriptor = os.open(registry / PROMOTIONS, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(line.encode())
        stream.flush()
        os.fsync(stream.fileno())


def seed(registry: Path, shipped: Path = ARTIFACTS) -> str:
    """Copy the shipped champion into a registry that has no champion yet, sign it there; return the champion's version.

    Signed with the registry's own key it stays loadable when a later release ships another. Safe to call from several
    processes at once, and again.
    """
    now = aliases(registry)
    if CHAMPION in now:
        return now[CHAMPION]
    version = resolve(shipped, CHAMPION)
    contents, _ = _verified(shipped, version)
    if not (registry / version).exists():
        _write_version(registry, version, contents)
    promote(registry, version)
    return version


def shipped_policy(shipped: Path = ARTIFACTS) -> Policy | None:
    """Return the policy of the shipped champion, whose threshold serves where there is too little history to tune one."""
    if CHAMPION not in aliases(shipped):
        return None
    version = resolve(shipped, CHAMPION)
    return Policy.from_dict(_trusted_manifest(shipped, version)[1]["policy"])


def _feature_schema(features: Sequence[str]) -> dict[str, Any]:
    """Unit of each feature in the order of the fitted parts, and a hash that changes with any name, unit or place."""
    units = [unit_of(name) for name in features]
    schema = {"dtype": "float64", "names": list(features), "units": units}
    return {"dtype": "float64", "units": units, "sha256": hashlib.sha256(_json(schema)).hexdigest()}


def _listing(contents: Mapping[str, bytes]) -> dict[str, dict[str, Any]]:
    return {
        name: {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)} for name, content in sorted(contents.items())
    }


def _check_name(version: str) -> None:
    if not _NAME.match(version) or version in (CHAMPION, PREVIOUS, CHALLENGER):
        raise RegistryError(
            f"a version is named by 1 to 64 letters, digits, '.', '_' or '-', and not like an alias; got {version!r}"
        )


def _verified(registry: Path, version: str) -> tuple[dict[str, bytes], dict[str, Any]]:
    """Read every file of a version once and compare it with the manifest; return contents and manifest."""
    folder = registry / version
    if folder.is_symlink():
        raise RegistryError(f"model {version!r} is a symbolic link; a registry holds real folders")
    for entry in sorted(folder.iterdir()):
        if entry.is_symlink() or not entry.is_file():
            raise RegistryError(f"model {version!r}: {entry.name} is not a plain file")
    raw, manifest = _trusted_manifest(registry, version)
    listed, present = set(manifest["files"]), {entry.name for entry in folder.iterdir()} - {MANIFEST, SIGNATURE}
    if not {MODEL, METRICS, CARD, GOLDEN} <= listed:
        raise RegistryError(f"model {version!r}: {MANIFEST} must list {MODEL}, {METRICS}, {CARD} and {GOLDEN}")
    if listed - present:
        raise RegistryError(f"model {version!r} lacks {', '.join(sorted(listed - present))}")
    if present - listed:
        raise RegistryError(f"model {version!r} has files its manifest does not list: {', '.join(sorted(present - listed))}")
    contents = {MANIFEST: raw}
    for name, expected in manifest["files"].items():
        content = _read(folder / name)
        if len(content) != expected["size"] or hashlib.sha256(content).hexdigest() != expected["sha256"]:
            raise RegistryError(f"model {version!r}: {name} is not the file the manifest lists; it was changed or damaged")
        contents[name] = content
    _check_versions(version, manifest)
    return contents, manifest


def _trusted_manifest(registry: Path, version: str) -> tuple[bytes, dict[str, Any]]:
    """Read a manifest once, check who signed it, and return its bytes and what they say."""
    folder = registry / version
    try:
        raw = _read(folder / MANIFEST)
    except FileNotFoundError:
        raise RegistryError(f"model {version!r} has no {MANIFEST}") from None
    if hashlib.sha256(raw).hexdigest() != SHIPPED_MANIFEST_SHA256:
        keys = signing.keys_of(registry)
        try:
            signature = _read(folder / SIGNATURE)
        except FileNotFoundError:
            raise RegistryError(f"model {version!r} is not signed: it has no {SIGNATURE}") from None
        try:
            signer = signing.signer(keys, raw, signature)
            known = ", ".join(f"{key.name} ({key.fingerprint})" for key in signing.list_trusted(keys)) or "none"
        except signing.SigningError as error:
            raise RegistryError(f"model {version!r}: nobody can say who signed it: {error}") from None
        if signer is None:
            raise RegistryError(
                f"model {version!r}: {SIGNATURE} is not of this {MANIFEST} by a trusted key; trusted in {keys}: {known}"
            )
    return raw, _parsed_manifest(raw, version)


def _parsed_manifest(raw: bytes, version: str) -> dict[str, Any]:
    try:
        manifest = json.loads(raw)
    except ValueError as error:
        raise RegistryError(f"model {version!r}: {MANIFEST} is not JSON: {error}") from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        came = manifest.get("format") if isinstance(manifest, dict) else manifest
        raise RegistryError(f"model {version!r}: format must be {FORMAT!r}; got {came!r}")
    if manifest.get("version") != version:
        raise RegistryError(f"model {version!r}: {MANIFEST} is that of model {manifest.get('version')!r}")
    files = manifest.get("files")
    if not isinstance(files, dict) or not all(isinstance(f, dict) and {"sha256", "size"} <= set(f) for f in files.values()):
        raise RegistryError(f"model {version!r}: {MANIFEST} must give sha256 and size of every file")
    for name in files:
        if not _NAME.match(name) or name in (MANIFEST, SIGNATURE):
            raise RegistryError(f"model {version!r}: {MANIFEST} lists {name!r}, which is not a plain file name")
    return manifest


def _check_versions(version: str, manifest: Mapping[str, Any]) -> None:
    made_with = str(manifest.get("made_with", {}).get("scikit-learn", "unknown"))
    here = str(sklearn.__version__)
    if made_with.split(".")[:2] != here.split(".")[:2]:
        raise RegistryError(f"model {version!r} was made with scikit-learn {made_with}, here is {here}: train it again")


def _unpickle(version: str, contents: Mapping[str, bytes], manifest: Mapping[str, Any]) -> Model:
    """Load a model from verified bytes, and see that it forecasts here what it forecast where it was made."""
    parts = joblib.load(io.BytesIO(contents[MODEL]))
    try:
        forecaster = Forecaster.from_dict(manifest["forecaster"], parts, version)
        policy = Policy.from_dict(manifest["policy"])
        reference = Reference.from_json(contents[REFERENCE]) if REFERENCE in contents else None
    except (KeyError, TypeError, ValueError) as error:
        raise RegistryError(f"model {version!r}: {MANIFEST} lacks or garbles {error}") from None
    _check_golden(forecaster, contents[GOLDEN])
    return Model(version, forecaster, policy, manifest, reference)


def _check_golden(forecaster: Forecaster, golden: bytes) -> None:
    rows = pq.read_table(io.BytesIO(golden)).to_pandas()
    expected = rows["expected_p_14d"].to_numpy(dtype=np.float64)
    found = _golden_p_14d(forecaster, rows)
    worst = float(np.abs(found - expected).max(initial=0.0))
    if not worst <= GOLDEN_TOLERANCE:
        raise RegistryError(
            f"model {forecaster.version!r} does not reproduce its golden forecasts here: they differ by {worst:.2g}"
        )


def _golden_p_14d(forecaster: Forecaster, rows: pd.DataFrame) -> np.ndarray:
    forecasts = forecaster.predict(rows).set_index(["gate_id", "as_of", "component"])["p_14d"]
    keys = pd.MultiIndex.from_frame(rows[["gate_id", "as_of", "component"]])
    return forecasts.reindex(keys).to_numpy(dtype=np.float64)


def _golden(forecaster: Forecaster, rows: pd.DataFrame) -> bytes:
    kept = rows[["gate_id", "component", "as_of", "reason", *forecaster.features]].reset_index(drop=True)
    kept["expected_p_14d"] = _golden_p_14d(forecaster, kept)
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pandas(kept, preserve_index=False).replace_schema_metadata(None), sink)
    return sink.getvalue()


def _read(file: Path) -> bytes:
    """Read a file that is not a symbolic link, not even one put there a moment ago."""
    descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW)
    with os.fdopen(descriptor, "rb") as stream:
        return stream.read()


def _json(values: Mapping[str, Any]) -> bytes:
    return (json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _write_version(registry: Path, version: str, contents: Mapping[str, bytes]) -> None:
    registry.mkdir(parents=True, exist_ok=True)
    contents = {**contents, SIGNATURE: signing.sign(signing.keys_of(registry), contents[MANIFEST])}
    building = Path(tempfile.mkdtemp(prefix=".new-", dir=registry))
    try:
        for name, content in contents.items():
            _write_synced(building / name, content)
        building.chmod(0o755)
        _sync_folder(building)
        try:
            building.rename(registry / version)
        except OSError:
            # another process was first; its version is as good when it is there
            if not (registry / version / MANIFEST).is_file():
                raise
        _sync_folder(registry)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _write_aliases(registry: Path, names: Mapping[str, str]) -> None:
    descriptor, temporary = tempfile.mkstemp(prefix=".aliases-", dir=registry)
    os.close(descriptor)
    try:
        _write_synced(Path(temporary), _json(dict(sorted(names.items()))))
        Path(temporary).chmod(0o644)
        Path(temporary).replace(registry / ALIASES)
    finally:
        Path(temporary).unlink(missing_ok=True)
    _sync_folder(registry)


def _write_synced(file: Path, content: bytes) -> None:
    with file.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
