"""A whole training with checkpoints: stopped, resumed, damaged and stopped early, it ends where a straight one ends."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

from kivnun.data.tokens import TokenizedRow, TokenTable, make_table
from kivnun.errors import UserError
from kivnun.methods import make_method
from kivnun.models.attention import use_packed_attention
from kivnun.models.load import load_model
from kivnun.models.types import Model
from kivnun.recipe.methods import FullMethod, LoraMethod, Method
from kivnun.recipe.training import TrainingSection
from kivnun.training.checkpoint import Progress, find_checkpoints, prune_checkpoints, save_checkpoint
from kivnun.training.optimizer import MasterWeights, make_master_weights
from kivnun.training.stage import Checkpoints, Job, train
from kivnun.training.validation import Validation, mean_loss

NUM_STEPS = 4
METHODS = {"full": FullMethod(), "lora": LoraMethod(rank=4, alpha=8, dropout=0.2)}
NO_ROWS = make_table([])


class PowerCutError(Exception):
    """Stands for a power cut: raised in the middle of a training, wherever its events go."""


@dataclass
class Events:
    """Collects events; a training is killed when it logs the step `kill_at`."""

    kill_at: int | None = None
    lines: list[tuple[str, Mapping[str, object]]] = field(default_factory=list)

    def __call__(self, event: str, fields: Mapping[str, object]) -> None:
        self.lines.append((event, fields))
        if event == "step" and fields["step"] == self.kill_at:
            raise PowerCutError

    def of(self, kind: str) -> list[Mapping[str, object]]:
        return [fields for event, fields in self.lines if event == kind]


@dataclass
class Trainer:
    """Gives the same training again and again, each time as a new process would start it."""

    base: Path
    data: tuple[TokenTable, Validation]

    def __call__(
        self,
        run_dir: Path,
        method: Method,
        settings: TrainingSection,
        log: Events,
        *,
        dtype: torch.dtype = torch.float32,
    ) -> tuple[dict[str, torch.Tensor], Progress, Model]:
        """Everything at the end: model weights, masters and optimizer state."""
        model = load_model(self.base, dtype=dtype)
        model.config.attention_dropout = 0.1
        for layer in model.model.layers:
            layer.self_attn.attention_dropout = 0.1
        make_method(method).prepare(model, generator=torch.Generator().manual_seed(settings.seed))
        use_packed_attention(model)
        weights = make_master_weights(model, settings)
        progress = train(Job(model, weights, *self.data, settings), checkpoints=Checkpoints(run_dir, "key"), log=log)
        return everything(model, weights), progress, model


def everything(model: Model, weights: MasterWeights) -> dict[str, torch.Tensor]:
    named = {f"model.{name}": value.detach() for name, value in model.named_parameters()}
    return {name: value.clone() for name, value in {**named, **weights.tensors()}.items()}


def assert_bitwise(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def settings(**fields: object) -> TrainingSection:
    defaults = {
        "epochs": 100,
        "max_steps": NUM_STEPS,
        "batch_tokens": 40,
        "gradient_accumulation_steps": 2,
        "learning_rate": 0.01,
        "save_every_steps": 1,
        "validate_every_steps": 2,
        "precision": "fp32",
    }
    return TrainingSection(**{**defaults, **fields})


@pytest.fixture
def trainer(tiny_model_folder: Path, tiny_table: TokenTable) -> Trainer:
    return Trainer(tiny_model_folder, (tiny_table, Validation(NO_ROWS)))


@pytest.fixture
def validated(tiny_model_folder: Path, tiny_table: TokenTable, tiny_validation_table: TokenTable) -> Trainer:
    return Trainer(tiny_model_folder, (tiny_table, Validation(tiny_validation_table)))


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("name", METHODS)
def test_a_run_killed_at_any_step_ends_as_if_it_never_was(trainer: Trainer, tmp_path: Path, name: str, optimizer: str):
    method, chosen = METHODS[name], settings(optimizer=optimizer)
    straight, _, _ = trainer(tmp_path / "straight", method, chosen, Events())
    for step in range(1, NUM_STEPS + 1):
        run_dir = tmp_path / f"killed-{step}"
        with pytest.raises(PowerCutError):
            trainer(run_dir, method, chosen, Events(kill_at=step))
        log = Events()
        resumed, progress, _ = trainer(run_dir, method, chosen, log)
        assert_bitwise(resumed, straight)
        assert progress.step == NUM_STEPS
        # The killed step's own checkpoint was not written yet: that step is done again.
        assert [fields["step"] for fields in log.of("resumed")] == ([step - 1] if step > 1 else [])
        assert [fields["step"] for fields in log.of("step")] == list(range(step, NUM_STEPS + 1))


def test_a_run_in_bf16_killed_twice_ends_as_if_it_never_was(validated: Trainer, tmp_path: Path):
    chosen = settings(max_steps=6, early_stopping_patience=3)
    straight, expected, _ = validated(tmp_path / "straight", METHODS["full"], chosen, Events(), dtype=torch.bfloat16)
    for step in (3, 5):
        with pytest.raises(PowerCutError):
            validated(tmp_path / "killed", METHODS["full"], chosen, Events(kill_at=step), dtype=torch.bfloat16)
    resumed, progress, _ = validated(tmp_path / "killed", METHODS["full"], chosen, Events(), dtype=torch.bfloat16)
    assert_bitwise(resumed, straight)
    assert (progress.best_step, progress.best_value, progress.num_tokens) == (
        expected.best_step,
        expected.best_value,
        expected.num_tokens,
    )


def test_a_finished_run_is_not_trained_again(trainer: Trainer, tmp_path: Path):
    first, _, _ = trainer(tmp_path, METHODS["lora"], settings(), Events())
    log = Events()
    again, progress, _ = trainer(tmp_path, METHODS["lora"], settings(), log)
    assert_bitwise(again, first)
    assert log.of("step") == []
    assert progress.step == NUM_STEPS


def test_another_seed_is_another_training(trainer: Trainer, tmp_path: Path):
    one, _, _ = trainer(tmp_path / "one", METHODS["full"], settings(), Events())
    other, _, _ = trainer(tmp_path / "other", METHODS["full"], settings(seed=1), Events())
    assert not torch.equal(one["model.model.norm.weight"], other["model.model.norm.weight"])


def test_a_damaged_latest_checkpoint_is_said_aloud_and_the_older_one_taken(trainer: Trainer, tmp_path: Path):
    straight, _, _ = trainer(tmp_path / "straight", METHODS["lora"], settings(), Events())
    run_dir = tmp_path / "killed"
    with pytest.raises(PowerCutError):
        trainer(run_dir, METHODS["lora"], settings(), Events(kill_at=4))
    damage(run_dir / "checkpoints" / "step-000003")
    log = Events()
    resumed, _, _ = trainer(run_dir, METHODS["lora"], settings(), log)
    assert [fields["folder"] for fields in log.of("checkpoint_damaged")] == ["step-000003"]
    assert [fields["step"] for fields in log.of("resumed")] == [2]
    assert_bitwise(resumed, straight)


def damage(folder: Path) -> None:
    path = folder / "state.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def give_to_another(folder: Path) -> None:
    manifest = folder / "artifact.json"
    manifest.write_text(manifest.read_text().replace('"key": "key"', '"key": "other"'))


@pytest.mark.parametrize("harm", [damage, shutil.rmtree, give_to_another])
def test_without_its_best_checkpoint_a_training_starts_again_and_says_so(validated: Trainer, tmp_path: Path, harm):
    """The best weights cannot be had from the later checkpoints, so those lead nowhere."""
    chosen = settings(max_steps=12, learning_rate=0.1, schedule="constant", validate_every_steps=1, keep_checkpoints=1)
    straight, expected, _ = validated(tmp_path, METHODS["full"], chosen, Events())
    assert expected.best_step < 12
    harm(tmp_path / "checkpoints" / f"step-{expected.best_step:06d}")
    # Killed after its first new checkpoint: the old one of step 12 must not have pushed that out.
    with pytest.raises(PowerCutError):
        validated(tmp_path, METHODS["full"], chosen, log := Events(kill_at=2))
    assert log.of("checkpoint_damaged")[0]["folder"] == "step-000012"
    assert f"step-{expected.best_step:06d}" in log.of("checkpoint_damaged")[0]["problem"]
    assert log.of("resumed") == []
    assert log.of("fit_started") == [{"key": "key", "from_step": 0}]
    again, progress, _ = validated(tmp_path, METHODS["full"], chosen, log := Events())
    assert log.of("checkpoint_damaged") == []
    assert log.of("resumed") == [{"step": 1, "key": "key"}]
    assert log.of("fit_started") == [{"key": "key", "from_step": 1}]
    assert (progress.best_step, progress.best_value) == (expected.best_step, expected.best_value)
    assert_bitwise(again, straight)


def test_checkpoints_of_another_training_are_never_resumed(trainer: Trainer, tmp_path: Path):
    trainer(tmp_path / "run", METHODS["lora"], settings(), Events())
    for folder in (tmp_path / "run" / "checkpoints").iterdir():
        give_to_another(folder)
    log = Events()
    trainer(tmp_path / "run", METHODS["lora"], settings(), log)
    assert log.of("resumed") == []
    assert len(log.of("step")) == NUM_STEPS


def test_early_stopping_ends_at_the_best_weights(
    tiny_model_folder: Path, tiny_table: TokenTable, unrelated_table: TokenTable, tmp_path: Path
):
    """Validation rows whose tokens follow another rule get worse as the training rows are learnt by heart."""
    trainer = Trainer(tiny_model_folder, (tiny_table, Validation(unrelated_table)))
    chosen = settings(
        max_steps=40, validate_every_steps=1, early_stopping_patience=2, learning_rate=0.05, schedule="constant"
    )
    log = Events()
    _, progress, model = trainer(tmp_path, METHODS["full"], chosen, log)
    losses = [fields["loss"] for fields in log.of("validation")]
    assert progress.step == len(losses) < 40
    assert progress.best_step == losses.index(min(losses)) + 1 == progress.step - 2
    assert mean_loss(model, trainer.data[1].table, batch_tokens=40)["loss"] == min(losses) == progress.best_value
    assert [fields["step"] for fields in log.of("early_stop")] == [progress.step]
    # Given again, it stays stopped and gives the same weights.
    again, later, _ = trainer(tmp_path, METHODS["full"], chosen, second := Events())
    assert second.of("step") == []
    assert later == progress
    assert all(torch.equal(again[f"model.{name}"], value) for name, value in model.named_parameters())


def test_the_best_weights_win_over_the_last(validated: Trainer, tmp_path: Path):
    log = Events()
    chosen = settings(max_steps=12, learning_rate=0.1, schedule="constant", validate_every_steps=1, keep_checkpoints=1)
    _, progress, model = validated(tmp_path, METHODS["full"], chosen, log)
    losses = [fields["loss"] for fields in log.of("validation")]
    assert len(losses) == 12
    assert losses[-1] > min(losses)
    assert mean_loss(model, validated.data[1].table, batch_tokens=40)["loss"] == min(losses)
    kept = sorted(folder.name for folder in (tmp_path / "checkpoints").glob("step-*"))
    assert kept == [f"step-{progress.best_step:06d}", "step-000012"]


def test_validation_is_once_an_epoch_unless_said_otherwise(tiny_model_folder: Path, tmp_path: Path):
    """Rows of 25 tokens fill 75 of a budget of 99: four steps an epoch, where the tokens alone would make three."""
    rows = make_table([TokenizedRow(list(range(first, first + 25)), [True] * 25) for first in range(12)])
    log = Events()
    chosen = settings(
        epochs=2, max_steps=None, batch_tokens=99, gradient_accumulation_steps=1, validate_every_steps=None
    )
    Trainer(tiny_model_folder, (rows, Validation(rows)))(tmp_path, METHODS["full"], chosen, log)
    assert [fields["epoch"] for fields in log.of("step")][3::4] == [1, 2]
    assert [fields["step"] for fields in log.of("validation")] == [4, 8]


@pytest.mark.parametrize("budget", [1, 25, 60, 10_000])
def test_the_validation_loss_does_not_depend_on_the_batch_size(tiny_model: Model, tiny_table: TokenTable, budget: int):
    expected = 0.0
    for row in range(len(tiny_table)):
        ids = torch.from_numpy(tiny_table.input_ids(row).astype("int64"))
        with torch.no_grad():
            log_p = tiny_model(input_ids=ids.unsqueeze(0)).logits[0].log_softmax(-1)
        places = [place for place in range(1, len(ids)) if tiny_table.trained(row)[place]]
        expected -= sum(float(log_p[place - 1, ids[place]]) for place in places)
    use_packed_attention(tiny_model)
    loss = mean_loss(tiny_model, tiny_table, batch_tokens=budget)["loss"]
    assert loss == pytest.approx(expected / tiny_table.num_trained, rel=1e-5)


def test_validation_is_without_dropout_whatever_mode_the_model_is_in(tiny_model: Model, tiny_table: TokenTable):
    make_method(LoraMethod(rank=4, dropout=0.5)).prepare(tiny_model, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        tiny_model.model.layers[0].mlp.up_proj.lora_B.fill_(1.0)
    use_packed_attention(tiny_model)
    expected = mean_loss(tiny_model.eval(), tiny_table, batch_tokens=60)["loss"]
    assert mean_loss(tiny_model.train(), tiny_table, batch_tokens=60)["loss"] == expected


def test_validating_more_often_changes_no_step(validated: Trainer, tmp_path: Path):
    """Dropout, its random numbers and the mode of the model are as before."""
    method = METHODS["lora"]
    run_often, run_seldom = (tmp_path / name for name in ("often", "seldom"))
    with pytest.raises(PowerCutError):
        validated(run_often, method, settings(max_steps=6, validate_every_steps=1), often := Events(kill_at=5))
    with pytest.raises(PowerCutError):
        validated(run_seldom, method, settings(max_steps=6, validate_every_steps=4), seldom := Events(kill_at=5))
    assert [fields["loss"] for fields in often.of("step")] == [fields["loss"] for fields in seldom.of("step")]
    assert often.of("validation")[3]["loss"] == seldom.of("validation")[0]["loss"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_validation_that_is_not_finite_is_an_error(validated: Trainer, tmp_path: Path, dtype: torch.dtype):
    chosen = settings(max_steps=1, learning_rate=1e39)
    with pytest.raises(UserError) as caught:
        validated(tmp_path, METHODS["full"], chosen, Events(), dtype=dtype)
    assert caught.value.code == "loss-not-finite"
    assert find_checkpoints(tmp_path, "key") == []


def test_pruning_keeps_the_latest_the_best_and_nothing_of_others(tiny_model: Model, tmp_path: Path):
    weights = make_master_weights(tiny_model, settings())
    for step in range(1, 8):
        save_checkpoint(tmp_path, weights, Progress(step=step), key="other" if step == 4 else "ours")
    save_checkpoint(tmp_path, weights, Progress(step=9), key="ours")  # one that could not be resumed from
    prune_checkpoints(tmp_path, Progress(step=7, best_step=3), key="ours", keep=2)
    assert [folder.name for folder in sorted((tmp_path / "checkpoints").glob("step-*"))] == [
        "step-000003",
        "step-000006",
        "step-000007",
    ]


def test_checkpoints_are_in_the_order_of_their_steps(tiny_model: Model, tmp_path: Path):
    weights = make_master_weights(tiny_model, settings())
    folders = [save_checkpoint(tmp_path, weights, Progress(step=step), key="ours") for step in (999_999, 1_000_000)]
    assert find_checkpoints(tmp_path, "ours") == folders


def test_a_checkpoint_without_its_manifest_does_not_count(tiny_model: Model, tmp_path: Path):
    weights = make_master_weights(tiny_model, settings())
    folder = save_checkpoint(tmp_path, weights, Progress(step=1), key="ours")
    shutil.copytree(folder, folder.with_name("step-000002"))
    (folder.with_name("step-000002") / "artifact.json").unlink()
    assert find_checkpoints(tmp_path, "ours") == [folder]
