"""The models of the latest epochs: which are kept, and that being killed and going on changes nothing in them."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from kivnun.data.tokens import TokenTable, make_table
from kivnun.methods import BaseModelName, make_method
from kivnun.models.attention import use_packed_attention
from kivnun.models.load import load_model
from kivnun.recipe.methods import LoraMethod
from kivnun.recipe.training import TrainingSection
from kivnun.runs import verify_artifact
from kivnun.runs.stage import sweep
from kivnun.training.optimizer import make_master_weights
from kivnun.training.stage import Checkpoints, Job, train
from kivnun.training.validation import Validation

METHOD = LoraMethod(rank=2, alpha=4, dropout=0.2)
EPOCH_STEPS = 2
NO_ROWS = make_table([])


class PowerCutError(Exception):
    """Stands for a power cut: raised in the middle of a training, wherever its events go."""


@dataclass
class Events:
    """Collects events; a training is killed at a moment: an event of a kind, at a step."""

    kill_at: tuple[str, int] | None = None
    lines: list[tuple[str, Mapping[str, object]]] = field(default_factory=list)

    def __call__(self, event: str, fields: Mapping[str, object]) -> None:
        self.lines.append((event, dict(fields)))
        if (event, fields.get("step")) == self.kill_at:
            raise PowerCutError

    def of(self, kind: str) -> list[Mapping[str, object]]:
        return [fields for event, fields in self.lines if event == kind]


def settings(**fields: object) -> TrainingSection:
    defaults = {"epochs": 4, "batch_size": 12, "learning_rate": 0.01, "precision": "fp32", "keep_epochs": 2}
    return TrainingSection(**{**defaults, **fields})


def run(
    base: Path,
    rows: TokenTable,
    run_dir: Path,
    chosen: TrainingSection,
    log: Events,
    *,
    validation: TokenTable = NO_ROWS,
    key: str = "key",
) -> None:
    """The same training as a new process would start it, in a run folder that it has just locked."""
    run_dir.mkdir(exist_ok=True)
    sweep(run_dir)
    model = load_model(base, dtype=torch.float32)
    method = make_method(METHOD)
    method.prepare(model, generator=torch.Generator().manual_seed(chosen.seed))
    use_packed_attention(model)
    job = Job(model, make_master_weights(model, chosen), rows, Validation(validation), chosen)

    def snapshot():
        return lambda folder: method.export(model, folder, base_model=BaseModelName("tiny", base))

    train(job, checkpoints=Checkpoints(run_dir, key), log=log, snapshot=snapshot)


def kept(run_dir: Path) -> list[str]:
    return sorted(folder.name for folder in (run_dir / "epochs").iterdir())


def digests(run_dir: Path) -> dict[str, str]:
    """Every file of every kept model; when it was made stands in `artifact.json` alone."""
    files = [path for path in (run_dir / "epochs").rglob("*") if path.is_file() and path.name != "artifact.json"]
    return {str(path.relative_to(run_dir)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_the_models_of_the_last_epochs_are_kept(tiny_model_folder: Path, tiny_table: TokenTable, tmp_path: Path):
    run(tiny_model_folder, tiny_table, tmp_path / "run", settings(), log := Events())
    assert kept(tmp_path / "run") == ["step-000006", "step-000008"]
    assert [(fields["step"], fields["epoch"], fields["folder"]) for fields in log.of("epoch_kept")] == [
        (2, 1.0, "step-000002"),
        (4, 2.0, "step-000004"),
        (6, 3.0, "step-000006"),
        (8, 4.0, "step-000008"),
    ]
    losses = {fields["step"]: fields["loss"] for fields in log.of("step")}
    assert all(fields["loss"] == losses[fields["step"]] for fields in log.of("epoch_kept"))
    for name in kept(tmp_path / "run"):
        assert verify_artifact(tmp_path / "run" / "epochs" / name).key == "key"


def test_a_kept_model_is_the_one_of_its_step(tiny_model_folder: Path, tiny_table: TokenTable, tmp_path: Path):
    """The same schedule stopped after the second epoch ends with the weights that were kept there."""
    run(tiny_model_folder, tiny_table, tmp_path / "whole", settings(schedule="constant", keep_epochs=4), Events())
    cut = settings(schedule="constant", max_steps=2 * EPOCH_STEPS, keep_epochs=1)
    run(tiny_model_folder, tiny_table, tmp_path / "cut", cut, Events())
    assert kept(tmp_path / "cut") == ["step-000004"]
    name = "epochs/step-000004/adapter_model.safetensors"
    assert digests(tmp_path / "cut")[name] == digests(tmp_path / "whole")[name]
    weights = [load_file(tmp_path / "whole" / "epochs" / f"step-{step:06d}" / name[-25:]) for step in (2, 4, 6, 8)]
    assert len({tuple(value.sum().item() for value in each.values()) for each in weights}) == 4


MOMENTS = [(kind, step) for kind in ("step", "epoch_kept") for step in (2, 4, 6, 8)] + [("checkpoint", 8), ("step", 5)]


@pytest.mark.parametrize("save_every", [1, 3, 100])
def test_killed_at_any_moment_it_keeps_the_same_models(
    tiny_model_folder: Path, tiny_table: TokenTable, tmp_path: Path, save_every: int
):
    chosen = settings(save_every_steps=save_every)
    run(tiny_model_folder, tiny_table, tmp_path / "straight", chosen, straight := Events())
    for number, moment in enumerate(MOMENTS):
        run_dir = tmp_path / f"killed-{number}"
        with pytest.raises(PowerCutError):
            run(tiny_model_folder, tiny_table, run_dir, chosen, first := Events(kill_at=moment))
        assert len(kept(run_dir)) <= 2 if (run_dir / "epochs").is_dir() else moment == ("step", 2)
        run(tiny_model_folder, tiny_table, run_dir, chosen, second := Events())
        assert digests(run_dir) == digests(tmp_path / "straight")
        told = [*first.of("epoch_kept"), *second.of("epoch_kept")]
        # Told again at most, and then with the same numbers.
        assert {fields["step"]: fields for fields in told} == {
            fields["step"]: fields for fields in straight.of("epoch_kept")
        }
        assert all(fields in straight.of("epoch_kept") for fields in told)


def test_a_model_that_was_kept_is_not_written_again(tiny_model_folder: Path, tiny_table: TokenTable, tmp_path: Path):
    """Without a checkpoint the training begins anew, while others may be reading the models that it kept."""
    chosen = settings(save_every_steps=100)
    with pytest.raises(PowerCutError):
        run(tiny_model_folder, tiny_table, tmp_path, chosen, Events(kill_at=("step", 7)))
    assert kept(tmp_path) == ["step-000004", "step-000006"]
    before = (tmp_path / "epochs" / "step-000006" / "adapter_model.safetensors").stat()
    run(tiny_model_folder, tiny_table, tmp_path, chosen, log := Events())
    assert log.of("fit_started") == [{"key": "key", "from_step": 0}]
    assert (tmp_path / "epochs" / "step-000006" / "adapter_model.safetensors").stat().st_ino == before.st_ino
    assert [fields["step"] for fields in log.of("epoch_kept")] == [4, 6, 8]


def test_a_damaged_model_is_written_again(tiny_model_folder: Path, tiny_table: TokenTable, tmp_path: Path):
    chosen = settings(save_every_steps=100)
    run(tiny_model_folder, tiny_table, tmp_path / "straight", chosen, Events())
    with pytest.raises(PowerCutError):
        run(tiny_model_folder, tiny_table, tmp_path / "run", chosen, Events(kill_at=("step", 7)))
    damaged = tmp_path / "run" / "epochs" / "step-000006" / "adapter_model.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    run(tiny_model_folder, tiny_table, tmp_path / "run", chosen, Events())
    assert digests(tmp_path / "run") == digests(tmp_path / "straight")


@pytest.mark.parametrize(
    ("fields", "names", "last_epoch"),
    [
        ({"epochs": 2.5}, ["step-000004", "step-000005"], 2.5),
        ({"max_steps": 3}, ["step-000002", "step-000003"], 1.5),
        ({"max_steps": 1}, ["step-000001"], 0.5),
        ({"keep_epochs": 1}, ["step-000008"], 4.0),
        ({"keep_epochs": 50}, ["step-000002", "step-000004", "step-000006", "step-000008"], 4.0),
    ],
)
def test_an_epoch_that_is_cut_short_counts_too(
    tiny_model_folder: Path, tiny_table: TokenTable, tmp_path: Path, fields: dict, names: list[str], last_epoch: float
):
    run(tiny_model_folder, tiny_table, tmp_path, settings(**fields), log := Events())
    assert kept(tmp_path) == names
    assert log.of("epoch_kept")[-1]["epoch"] == last_epoch


def test_what_the_validation_after_an_epoch_measured_is_told_with_it(
    tiny_model_folder: Path, tiny_table: TokenTable, tiny_validation_table: TokenTable, tmp_path: Path
):
    chosen = settings(validate_every_steps=4)
    run(tiny_model_folder, tiny_table, tmp_path, chosen, log := Events(), validation=tiny_validation_table)
    measured = {fields["step"]: fields["loss"] for fields in log.of("validation")}
    assert set(measured) == {4, 8}
    assert [fields.get("validation_loss") for fields in log.of("epoch_kept")] == [None, measured[4], None, measured[8]]


def test_the_epoch_in_which_it_stops_early_is_the_last_one(
    tiny_model_folder: Path, tiny_table: TokenTable, unrelated_table: TokenTable, tmp_path: Path
):
    chosen = settings(
        epochs=40, batch_size=8, learning_rate=0.1, validate_every_steps=1, early_stopping_patience=2, keep_epochs=1
    )
    run(tiny_model_folder, tiny_table, tmp_path, chosen, log := Events(), validation=unrelated_table)
    [stopped] = log.of("early_stop")
    assert kept(tmp_path) == [f"step-{stopped['step']:06d}"]


def test_models_of_another_training_do_not_stay(tiny_model_folder: Path, tiny_table: TokenTable, tmp_path: Path):
    run(tiny_model_folder, tiny_table, tmp_path, settings(), Events())
    run(tiny_model_folder, tiny_table, tmp_path, settings(seed=1, epochs=1, keep_epochs=4), Events(), key="other")
    assert kept(tmp_path) == ["step-000002"]
    run(tiny_model_folder, tiny_table, tmp_path, settings(epochs=1, keep_epochs=0), Events(), key="other")
    assert kept(tmp_path) == []


def test_keeping_epochs_changes_nothing_that_is_learnt(tiny_model_folder: Path, tiny_table: TokenTable, tmp_path: Path):
    run(tiny_model_folder, tiny_table, tmp_path / "with", settings(), one := Events())
    run(tiny_model_folder, tiny_table, tmp_path / "without", settings(keep_epochs=0), other := Events())
    assert [fields["loss"] for fields in one.of("step")] == [fields["loss"] for fields in other.of("step")]
    last = ("checkpoints", "step-000008", "state.safetensors")
    assert tmp_path.joinpath("with", *last).read_bytes() == tmp_path.joinpath("without", *last).read_bytes()
    assert not (tmp_path / "without" / "epochs").exists()


def test_without_a_way_to_take_the_model_it_is_refused(tiny_model_folder: Path, tiny_table: TokenTable, tmp_path: Path):
    model = load_model(tiny_model_folder, dtype=torch.float32)
    job = Job(model, make_master_weights(model, settings()), tiny_table, Validation(NO_ROWS), settings())
    with pytest.raises(ValueError, match="keep_epochs"):
        train(job, checkpoints=Checkpoints(tmp_path, "key"), log=Events())
