"""Commands of the data scientist: `train`, `backtest`, `evaluate`, `models`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import datetime
from pathlib import Path

import click

from pipeline.errors import BadInput
from service.cli.parts import (
    DEFAULT_HOME,
    actor,
    counted_progress,
    database_option,
    make_folder,
    open_database,
    option,
    registry_option,
    staged_progress,
    utc_day,
    wall,
)


@click.command()
@click.argument("folder", type=click.Path(path_type=Path), required=False)
@click.option("--from-store", is_flag=True, help="Train on what the historian holds; --database says where it is.")
@database_option
@registry_option
@option("--name", required=True, help="Name of the new version.")
@option("--seed", type=int, default=0, show_default=True, help="Same data, seed and versions: same predictions.")
@option("--jobs", type=click.IntRange(1, 64), default=1, show_default=True, help="Processor cores to use.")
@option(
    "--cache",
    type=click.Path(path_type=Path, file_okay=False),
    default=DEFAULT_HOME / "features",
    show_default=True,
    help="Keeps feature rows, so that a training cut short goes on where it stopped; may be deleted.",
)
def train(
    folder: Path | None, from_store: bool, database: str, registry: Path, name: str, seed: int, jobs: int, cache: Path
) -> None:
    """Train a model on a dataset folder, judge it on gates it has not seen, and register it.

    From the store, the same model comes out as from the folder that `sluicewatch export` writes.

    \b
    sluicewatch train sample_data/fleet --registry registry/ --name mine-1
    sluicewatch train --from-store --database sqlite:///gates.sqlite --name mine-2
    """
    from models.registry import check_free
    from models.train import train as fit
    from pipeline.dataset import open_dataset

    if from_store == (folder is not None):
        raise BadInput("train: give either a dataset folder or --from-store")
    check_free(registry, name)  # before an export of hours
    with _exported(database) if folder is None else nullcontext(folder) as data, staged_progress() as progress:
        candidate = fit(
            open_dataset(data), registry_dir=registry, name=name, seed=seed, progress=progress, jobs=jobs, cache=cache
        )
    click.echo(candidate.table)
    click.echo(
        f"registered as {candidate.version} in {registry}; if it is better than the champion, "
        f"`sluicewatch models promote {candidate.version} --registry {registry} --dataset {folder or 'DIR'}` puts it to work"
    )


@contextmanager
def _exported(database: str) -> Iterator[Path]:
    """What the historian holds, as a dataset folder that goes when it has been used."""
    from tempfile import TemporaryDirectory

    from pipeline import transfer

    engine = open_database(database)
    with TemporaryDirectory(prefix="sluicewatch-") as place:
        folder = Path(place) / "store"
        with counted_progress("export") as progress:
            transfer.export_dataset(engine, folder, progress=progress)
        yield folder


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@registry_option
@option("--model", default="champion", show_default=True, help="Version or alias.")
@option("--from", "from_", callback=utc_day, required=True, help="First day.")
@option("--to", callback=utc_day, required=True, help="Last day.")
@option("--out", type=click.Path(path_type=Path, dir_okay=False), required=True, help="Forecast file to write (Parquet).")
def backtest(folder: Path, registry: Path, model: str, from_: datetime, to: datetime, out: Path) -> None:
    """Forecast every gate on every day of a dataset, as the live service would have, and write a forecast file.

    \b
    sluicewatch backtest fleet/ --model champion --from 2024-03-01 --to 2024-06-30 --out forecasts.parquet
    """
    from models import registry as models
    from models.backtest import backtest as run
    from models.forecast_files import write_forecasts
    from pipeline.dataset import open_dataset

    dataset = open_dataset(folder)
    if model == "champion":
        models.seed(registry)
    loaded = models.load(registry, model)
    with staged_progress() as progress:
        forecasts = run(dataset, loaded, from_, to, progress=progress)
    make_folder(out)
    write_forecasts(forecasts, out)
    known = "" if loaded.policy.calibrated_here else ", not yet calibrated here,"
    click.echo(
        f"{len(forecasts)} forecasts of {forecasts['gate_id'].nunique()} gates by {loaded.version}{known} written to {out}"
    )


@click.command()
@option("--dataset", "folder", type=click.Path(path_type=Path), required=True, help="Dataset folder.")
@option("--forecasts", type=click.Path(path_type=Path), required=True, help="Forecast file, ours or another's.")
@option("--beside", multiple=True, help="NAME=FILE, another forecast file to judge on the same rows; may be repeated.")
@option("--report", type=click.Path(path_type=Path, dir_okay=False), default=None, help="Write the figures here (JSON).")
@option("--pictures", type=click.Path(path_type=Path, file_okay=False), default=None, help="Draw the figures into this folder.")
def evaluate(folder: Path, forecasts: Path, beside: tuple[str, ...], report: Path | None, pictures: Path | None) -> None:
    """Judge a forecast file against what happened, beside what operators use today.

    \b
    sluicewatch evaluate --dataset fleet/ --forecasts forecasts.parquet --report report.json
    sluicewatch evaluate --dataset fleet/ --forecasts forecasts.parquet --beside oracle=fleet/oracle-O3.parquet --pictures plots/
    """
    import json

    from models.evaluate import table
    from models.forecast_files import read_forecasts
    from models.pictures import draw
    from models.train import judge
    from pipeline.dataset import open_dataset

    named = [text.partition("=") for text in beside]
    if not all(name and path for name, _, path in named):
        raise BadInput(f"beside: write NAME=FILE; got {', '.join(beside)}")
    dataset, file = open_dataset(folder), read_forecasts(forecasts)
    others = {name: read_forecasts(path) for name, _, path in named}
    with staged_progress() as progress:
        reports = judge(dataset, file, beside=others, progress=progress)
    click.echo(table(reports))
    if pictures is not None:
        make_folder(pictures / "reliability.png")
        for picture in draw(reports, pictures):
            click.echo(f"drawn in {picture}")
    if report is not None:
        make_folder(report)
        report.write_text(json.dumps(reports, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


@click.group(name="models")
def models_group() -> None:
    """List, show, verify, tune, compare, try in the shadow, promote, roll back and release trained models."""


@models_group.command(name="list")
@registry_option
def models_list(registry: Path) -> None:
    """List the versions of a registry.

    \b
    sluicewatch models list --registry registry/
    """
    from models import registry as models

    found = models.list_versions(registry)
    for listed in found:
        figures = listed.manifest.get("figures", {})
        ap = figures.get("ap_14d", {}).get("value")
        told = "no figures" if ap is None else f"AP at 14 d {ap:.3f} on {listed.manifest['training']['source']}"
        click.echo(f"{listed.version}  {','.join(listed.aliases) or '-'}  {told}")
    if not found:
        click.echo(f"no models in {registry}")


@models_group.command(name="show")
@click.argument("version")
@registry_option
def models_show(version: str, registry: Path) -> None:
    """Print the model card of a version or alias.

    \b
    sluicewatch models show champion
    """
    from models import registry as models

    models.load(registry, version)
    click.echo((registry / models.resolve(registry, version) / models.CARD).read_text(encoding="utf-8"))


@models_group.command(name="verify")
@click.argument("version")
@registry_option
def models_verify(version: str, registry: Path) -> None:
    """Check a version's signature, every file against its manifest, its golden forecasts and the headings of its cards.

    \b
    sluicewatch models verify champion
    """
    from models import registry as models

    click.echo(f"{models.verify(registry, version).version} is whole")


dataset_option = option(
    "--dataset", "folder", type=click.Path(path_type=Path), default=None, help="Dataset folder to compare on."
)
reason_option = click.option("--reason", default="", help="Why; kept in the registry's promotions.jsonl.")
jobs_option = option("--jobs", type=click.IntRange(1, 64), default=1, show_default=True, help="Processor cores to use.")


@models_group.command(name="challenge")
@click.argument("version", required=False)
@registry_option
@click.option("--none", "dismissed", is_flag=True, help="End the challenge there is.")
@reason_option
def models_challenge(version: str | None, registry: Path, dismissed: bool, reason: str) -> None:
    """Let a version forecast beside the champion, every day from the same readings; nobody is told of what it says.

    `models shadow` compares the two once enough outcomes are known.

    \b
    sluicewatch models challenge mine-1
    sluicewatch models challenge --none
    """
    from models.promotion import challenge, dismiss

    if dismissed == (version is not None):
        raise BadInput("challenge: give a version, or --none to end the challenge there is")
    if version is None:
        click.echo(f"{dismiss(registry, at=wall(), actor=actor().name, reason=reason)} is no challenger any more")
        return
    model = challenge(registry, version, at=wall(), actor=actor().name, reason=reason)
    click.echo(f"{model.version} is the challenger: it forecasts beside the champion, and nobody is told")


@models_group.command(name="shadow")
@registry_option
@database_option
def models_shadow(registry: Path, database: str) -> None:
    """Compare the challenger with the champion on what both said here, as far as the outcomes are known.

    \b
    sluicewatch models shadow --database sqlite:///gates.sqlite
    """
    from service.shadow import compare_shadow

    found = compare_shadow(open_database(database), registry, wall())
    click.echo(found.table)
    click.echo(found.verdict)


@models_group.command(name="compare")
@click.argument("candidate")
@click.argument("other")
@registry_option
@dataset_option
@jobs_option
def models_compare(candidate: str, other: str, registry: Path, folder: Path | None, jobs: int) -> None:
    """Compare two versions on the same rows: gates of the dataset that the first has not learnt from, in later time.

    \b
    sluicewatch models compare mine-1 champion --dataset fleet/
    """
    import json

    from models import registry as models
    from models.evaluate import table
    from models.promotion import compare_models
    from pipeline.dataset import open_dataset

    if "champion" in (candidate, other):
        models.seed(registry)
    pair = [models.load(registry, name) for name in (candidate, other)]
    if folder is None:
        reports = {m.version: json.loads((registry / m.version / models.METRICS).read_text(encoding="utf-8")) for m in pair}
        click.echo(table({name: report["model"] for name, report in reports.items()}))
        click.echo("each on its own test gates, so no comparison; --dataset DIR judges both on the same rows")
        return
    with counted_progress("features") as progress:
        found = compare_models(open_dataset(folder), *pair, jobs=jobs, progress=progress)
    click.echo(found.table)
    click.echo(found.verdict)


@models_group.command(name="promote")
@click.argument("version")
@registry_option
@dataset_option
@jobs_option
@click.option("--shadow", is_flag=True, help="Compare on what it said here as the challenger, in --database.")
@database_option
@click.option("--force", is_flag=True, help="Promote without being shown to be better; needs --reason.")
@reason_option
def models_promote(
    version: str, registry: Path, folder: Path | None, jobs: int, shadow: bool, database: str, force: bool, reason: str
) -> None:
    """Make a version the champion if it is better than the present one; the champion so far becomes `previous`.

    Better: on gates it has not learnt from, the 90 % interval of its average precision over the champion's lies above 1,
    and for no hoist type is it below 0.9. A version that `models tune` made of the champion needs no comparison.

    \b
    sluicewatch models promote mine-1 --dataset fleet/
    sluicewatch models promote mine-1 --shadow --database sqlite:///gates.sqlite
    """
    from models.promotion import promote
    from pipeline.dataset import open_dataset
    from service.shadow import compare_shadow

    if shadow and folder is not None:
        raise BadInput("promote: compare on --dataset or on --shadow, not on both")
    comparison = compare_shadow(open_database(database), registry, wall()) if shadow else None
    dataset = None if folder is None else open_dataset(folder)
    with counted_progress("features") as progress:
        promoted = promote(
            registry,
            version,
            dataset=dataset,
            comparison=comparison,
            at=wall(),
            actor=actor().name,
            reason=reason,
            force=force,
            jobs=jobs,
            progress=progress,
        )
    click.echo(f"{promoted.version} is the champion")


@models_group.group(name="keys")
def model_keys() -> None:
    """Say whose models are loaded: a key pair that signs, and the public keys that are trusted."""


@model_keys.command(name="init")
@registry_option
def model_keys_init(registry: Path) -> None:
    """Make the key pair that signs what is trained here; it lies beside the registry. `train` makes a missing one.

    \b
    sluicewatch models keys init --registry registry/
    """
    from models import signing

    made = signing.make_pair(signing.keys_of(registry))
    click.echo(f"{made.name} ({made.fingerprint}) signs models from now on")
    click.echo(f"others trust it by {signing.keys_of(registry) / signing.TRUSTED / made.name}.pem")


@model_keys.command(name="list")
@registry_option
def model_keys_list(registry: Path) -> None:
    """List the keys whose models are loaded here.

    \b
    sluicewatch models keys list --registry registry/
    """
    from models import signing

    found = signing.list_trusted(signing.keys_of(registry))
    for key in found:
        click.echo(f"{key.name}  {key.fingerprint}{'  signs here' if key.signs_here else ''}")
    if not found:
        click.echo(f"no trusted keys in {signing.keys_of(registry)}; only the shipped champion is loaded")


@model_keys.command(name="trust")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@registry_option
@click.option("--name", default=None, help="Name of the key.  [default: the file's]")
def model_keys_trust(file: Path, registry: Path, name: str | None) -> None:
    """Trust another's public key. Compare its fingerprint with its owner by another way first.

    \b
    sluicewatch models keys trust zhang.pem --registry registry/
    """
    from models import signing

    key = signing.trust(signing.keys_of(registry), file, name)
    click.echo(f"models signed by {key.name} ({key.fingerprint}) are loaded from now on")


@model_keys.command(name="remove")
@click.argument("name")
@registry_option
def model_keys_remove(name: str, registry: Path) -> None:
    """Trust a key no longer: models that it alone has signed are refused.

    \b
    sluicewatch models keys remove zhang --registry registry/
    """
    from models import signing

    signing.remove(signing.keys_of(registry), name)
    click.echo(f"{name} is not trusted any longer")


@models_group.command(name="tune")
@click.argument("folder", type=click.Path(path_type=Path))
@registry_option
@click.option("--model", default="champion", show_default=True, help="Version or alias to tune; it stays as it is.")
@click.option("--name", default=None, help="Name of the new version.  [default: <model>-here]")
@click.option(
    "--budget",
    type=click.FloatRange(0, min_open=True),
    default=0.2,
    show_default=True,
    help="False alarms accepted per gate and year.",
)
@click.option("--from", "from_", callback=utc_day, default=None, help="First day.  [default: the record's]")
@click.option("--to", callback=utc_day, default=None, help="Last day.  [default: the record's]")
def models_tune(
    folder: Path, registry: Path, model: str, name: str | None, budget: float, from_: datetime | None, to: datetime | None
) -> None:
    """Tune a model's alarm threshold on your own gates' history, and register the result as a new version.

    Its probabilities are calibrated anew, too, where that forecasts better those of your gates that it was not fitted to. It
    needs 60 gate-years of gates the model has not learnt from; with less, the threshold there is stays.

    \b
    sluicewatch models tune fleet/ --registry registry/ --name mine-1
    """
    from models import registry as models
    from models.retune import retune
    from pipeline.dataset import open_dataset

    dataset = open_dataset(folder)
    if model == "champion":
        models.seed(registry)
    with staged_progress() as progress:
        tuned = retune(
            dataset,
            registry_dir=registry,
            model=model,
            name=name,
            budget_per_gate_year=budget,
            from_=from_,
            to=to,
            progress=progress,
        )
    policy, parent = tuned.policy, tuned.manifest["tuned"]
    click.echo(
        f"{tuned.version}: threshold {policy.open_at:.3f} (was {parent['parent_open_at']:.3f} in {parent['parent']}), calibrated "
        f"here on {policy.tuned_gate_years:.1f} gate-years with {policy.tuned_false_alarms} false alarms; its probabilities are "
        f"{'calibrated anew' if parent['recalibrated'] else 'its parent’s'}; "
        f"`sluicewatch models promote {tuned.version}` puts it to work"
    )


@models_group.command(name="release")
@option("--reason", required=True, help="Why its alerts may be told; it is kept in the audit trail.")
@database_option
def models_release(reason: str, database: str) -> None:
    """Take the model off hold: notices of alerts that are still open go out, the others are dropped.

    \b
    sluicewatch models release --reason "the flood is real: seen on site"
    """
    from pipeline import historian
    from service import hold

    if not reason.strip():
        raise BadInput("reason: must say why; got nothing")
    with historian.writing(open_database(database)) as connection:
        released = hold.release(connection, wall(), actor=actor(), reason=reason.strip())
    click.echo(f"released: {released.told} alerts are told, {released.dropped} were resolved meanwhile and are not")


@models_group.command(name="rollback")
@registry_option
@reason_option
def models_rollback(registry: Path, reason: str) -> None:
    """Go back to the previous champion.

    \b
    sluicewatch models rollback --reason "false alarms at the lower gates"
    """
    from models.promotion import roll_back

    went_back_to = roll_back(registry, at=wall(), actor=actor().name, reason=reason)
    click.echo(f"{went_back_to.version} is the champion again")
