"""What may go wrong with methods, objectives and training: said with its place, its value and one action."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from journey import (
    ADAPTER,
    Ended,
    clean_environment,
    example_rows,
    finished_stages,
    hash_of,
    leftovers,
    read_events,
    write_jsonl,
)
from safetensors.torch import load_file, save_file

from kivnun.errors import UserError
from kivnun.methods import load_tuned
from kivnun.pipeline import run_recipe
from kivnun.recipe.load import load_recipe
from kivnun.runs import open_run, verify_artifact

Command = Callable[..., Ended]

RECIPE = """\
base_model: {base}
data:
  train: rows.jsonl
  text_template: "Text: {{phrase}}\\nTone: {{tone}}"
  split: {{validation: 4, test: 6, near_duplicates: ignore}}
  max_seq_len: 256
method: {{kind: lora, rank: 4, alpha: 8}}
training:
  max_steps: 3
  learning_rate: 5e-3
  batch_tokens: 256
  save_every_steps: 1
  precision: fp32
  compile: false
"""
PAIRS = RECIPE.replace('  text_template: "Text: {{phrase}}\\nTone: {{tone}}"\n', "")
NUMBERS = range(24)
RUN = Path("runs") / "recipe"


class Mistake(NamedTuple):
    """Overrides of the recipe, the code of the error, and texts that must stand in it."""

    settings: Sequence[str]
    code: str
    says: Sequence[str]

    def arguments(self, recipe: Path) -> list[str]:
        return ["run", str(recipe), *(part for setting in self.settings for part in ("--set", setting))]


def invalid(setting: str, *says: str) -> Mistake:
    """A mistake in the recipe alone: the override is quoted in front of the field."""
    return Mistake([setting], "recipe-invalid", [f"--set {setting}: ", *says])


def require_refusal(ended: Ended, code: str, says: Iterable[str]) -> None:
    problem = ended.err[ended.err.index("error[") :] if "error[" in ended.err else ended.err
    assert ended.status == 2, ended.err
    assert problem.startswith(f"error[{code}]: "), ended.err
    assert [text for text in says if text not in problem] == [], problem
    assert problem.splitlines()[-1].startswith("hint: ")
    assert problem.count("hint: ") == 1
    assert "Traceback" not in ended.err
    assert ended.out == ""


@pytest.fixture(scope="module")
def trained(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workplace whose run went through undisturbed; tests copy it and leave it as it is."""
    work = tmp_path_factory.mktemp("trained")
    write_jsonl(work / "rows.jsonl", example_rows(24))
    (work / "recipe.yaml").write_text(RECIPE.format(base=tiny_base), "utf-8")
    with open_run(work / RUN) as run:
        run_recipe(load_recipe(work / "recipe.yaml"), run)
    return work


@pytest.fixture
def untrained(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same workplace, as it was before the last checkpoint became a model; it is the current folder."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / RUN / "model")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def fresh(tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workplace without a run; it is the current folder."""
    write_jsonl(tmp_path / "rows.jsonl", example_rows(24))
    (tmp_path / "recipe.yaml").write_text(RECIPE.format(base=tiny_base), "utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


RECIPE_MISTAKES = (
    invalid("method.rank=0", "method.rank: input should be greater than 0 (got 0)"),
    invalid("method.lora_r=0", "method.lora_r: unknown field; did you mean `rank`?"),
    invalid("method.r=0", "method.r: unknown field; did you mean `rank`?"),
    invalid("lora_r=0", "lora_r: unknown field; did you mean `method.rank`?"),
    invalid("method.rank='8'", "valid integer (got '8'); write it without quotes"),
    invalid("method={kind: lorra}", "method.kind: ", "(got 'lorra'); did you mean `lora`?"),
    invalid("method={kind: adapter, rank: 3}", "method.rank: unknown field; kind adapter does not have it"),
    invalid("method={kind: adapter, placement: houlsbi}", "'houlsby' or 'pfeiffer' (got 'houlsbi')"),
    invalid("method={kind: qlora, double_quant: 1}", "valid boolean (got 1)"),
    invalid("method={kind: prefix, num_virtual_tokens: 0}", "greater than 0 (got 0)"),
    invalid("method={kind: partial}", "say what is trained: either last_layers or modules"),
    invalid("method={kind: lora, learning_rate_ratio: 0}", "learning_rate_ratio: ", "greater than 0 (got 0)"),
    invalid("training.micro_batch_tokens=0", "1 problem in", "micro_batch_tokens: input should be greater than 0"),
    invalid("training.micro_batch_tokens=most", "1 problem in", "micro_batch_tokens: input should be 'auto'"),
    invalid("training.micro_batch_tokens='256'", "(got '256'); write it without quotes"),
    invalid("training.decay_ratio=0.2", "has no effect on the schedule cosine; it belongs to wsd"),
    invalid("training.optimizer=adam", "'adamw', 'adamw_8bit' or 'muon' (got 'adam')"),
    invalid("training.gradient_checkpoint=true", "unknown field; did you mean `gradient_checkpointing`?"),
    invalid("training.report_to=[tensorbord]", "training.report_to.0: ", "'tensorboard'", "(got 'tensorbord')"),
    invalid("training.report_to=csv", "input should be a list (got 'csv'); write [csv]"),
    invalid("training.best_metric=accuracy", "accuracy is not measured; add it to training.validation_metrics"),
    invalid("training.early_stopping_min_delta=0.1", "has no effect without early_stopping_patience"),
    invalid("training.parallel=zero3", "'ddp' or 'fsdp' (got 'zero3')"),
    invalid("training.objective=dpoo", "training.objective.kind: ", "did you mean `dpo`?"),
    invalid("training.objective={kind: dpo, bta: 1}", "objective.bta: unknown field; did you mean `beta`?"),
    invalid(
        "training.objective={kind: custom, name: a, options: {b: [1]}}",
        "1 problem in",
        "objective.options.b: input should be text, a finite number, true or false (got a list)",
    ),
    invalid("search={space: {a: {type: choice, values: [[1]]}}}", "1 problem in", "space.a.values.0: input should be"),
    invalid("search={space: {a: 5}}", "search.space.a: input should be a range with the type float, int or choice"),
    invalid("search={space: {}}", "search.space: input should have at least 1 item"),
    Mistake(
        ["training.validation_metrics=[accuracy]", "training.best_metric=accuracy", "data.split.validation=0"],
        "recipe-invalid",
        [
            "training.validation_metrics: needs validation rows, but data.split.validation is 0",
            "training.best_metric: needs validation rows",
        ],
    ),
    Mistake(
        ["training.early_stopping_patience=2", "data.split.validation=0"],
        "recipe-invalid",
        ["training.early_stopping_patience: needs validation rows, but data.split.validation is 0"],
    ),
    Mistake(
        ["method={kind: prefix}", "training.gradient_checkpointing=true"],
        "recipe-invalid",
        ["training.gradient_checkpointing: cannot be combined with the method prefix"],
    ),
    Mistake(
        ["training.objective=dpo"],
        "recipe-invalid",
        ["recipe.yaml:4: data.text_template: has no place for a rejected answer, which the objective dpo learns from"],
    ),
)


@pytest.mark.parametrize("mistake", RECIPE_MISTAKES, ids=lambda mistake: " ".join(mistake.settings))
def test_a_recipe_that_cannot_be_meant_makes_no_folder(mistake: Mistake, fresh: Path, kivnun_here: Command) -> None:
    require_refusal(kivnun_here(*mistake.arguments(Path("recipe.yaml"))), mistake.code, mistake.says)
    assert not (fresh / "runs").exists()


LAYERS = "k_proj (32 x 64)"
MODEL_MISTAKES = (
    Mistake(["method.rank=65"], "recipe-invalid", ["method.rank: 65 is above the smaller side of ", LAYERS, "to 32 "]),
    Mistake(["method={kind: qlora, rank: 33}"], "recipe-invalid", ["method.rank: 33 is above ", LAYERS]),
    Mistake(["method.target_modules=[q_prj]"], "target-modules", ["method.target_modules: q_prj", "near it: q_proj"]),
    Mistake(["method.modules_to_save=[embed_token]"], "target-modules", ["embed_token matches no", "near it: embed_t"]),
    Mistake(["method={kind: partial, modules: [layer.0]}"], "target-modules", ["method.modules: layer.0", "near it:"]),
    Mistake(["method={kind: ia3, target_modules: [k_prj]}"], "target-modules", ["k_prj", "near it: k_proj"]),
    Mistake(
        ["method={kind: partial, last_layers: 3}"],
        "recipe-invalid",
        ["method.last_layers: 3, but the model has 2 decoder layers"],
    ),
    Mistake(
        ["method={kind: prefix, num_virtual_tokens: 4000}"],
        "recipe-invalid",
        ["method.num_virtual_tokens: 4000 leaves no room in the model's context of 1024 tokens"],
    ),
    Mistake(
        ["method={kind: prompt, num_virtual_tokens: 1, init_text: joyful}"],
        "recipe-invalid",
        ["method.init_text: has ", "and method.num_virtual_tokens is 1"],
    ),
    Mistake(
        ["training.objective={kind: custom, name: nothing}"],
        "objective-invalid",
        ["training.objective.name: no entry point 'nothing'"],
    ),
    Mistake(
        ["method={kind: adapter}", "optimization={precision: fp32}"],
        "stage-unsupported",
        ["method.kind: what adapter trains cannot be merged", "full, partial, lora, qlora, ia3"],
    ),
    Mistake(
        ["method={kind: prompt}", "optimization={precision: fp32}"],
        "stage-unsupported",
        ["method.kind: what prompt trains cannot be merged"],
    ),
    Mistake(
        ["training.cache_hidden_states=true"],
        "recipe-invalid",
        ["training.cache_hidden_states: no frozen layers lie below"],
    ),
)


@pytest.mark.parametrize("mistake", MODEL_MISTAKES, ids=lambda mistake: " ".join(mistake.settings))
def test_what_does_not_fit_the_model_is_refused_before_a_step_is_taken(
    mistake: Mistake, untrained: Path, kivnun_here: Command
) -> None:
    shutil.rmtree(untrained / RUN / "checkpoints")
    require_refusal(kivnun_here(*mistake.arguments(Path("recipe.yaml"))), mistake.code, mistake.says)
    assert finished_stages(untrained / RUN) <= {"dataset"}
    assert leftovers(untrained / RUN) == []
    assert not (untrained / RUN / "checkpoints").exists()


PLAIN: list[dict[str, object]] = [{"prompt": f"p {n}?", "completion": f"a {n}"} for n in NUMBERS]


def pairs(**changes: dict[str, object]) -> list[dict[str, object]]:
    """Rows with a preferred and a rejected answer; `row5` replaces the fifth."""
    rows = [{"prompt": f"p {n}?", "chosen": f"yes {n}", "rejected": f"no {n}"} for n in NUMBERS]
    return [changes.get(f"row{number}", row) for number, row in enumerate(rows, start=1)]


def judged(**changes: object) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = [
        {"prompt": f"p {n}?", "completion": f"a {n}", "label": n % 2 == 0} for n in NUMBERS
    ]
    for name, label in changes.items():
        rows[int(name.removeprefix("row")) - 1]["label"] = label
    return rows


def tones(*names: str) -> list[dict[str, object]]:
    return [{"phrase": f"words {n}", "tone": names[n % len(names)]} for n in NUMBERS]


EQUAL = {"prompt": "p?", "chosen": "the same", "rejected": "the same"}
MASKED: list[dict[str, object]] = [
    {"messages": [{"role": "user", "content": f"q {n}"}, {"role": "assistant", "content": "a", "weight": 0}]}
    for n in NUMBERS
]
BY_ROWS = RECIPE.replace("batch_tokens: 256", "batch_size: 1")
DATA_MISTAKES = {
    "dpo with equal answers": (PAIRS, "dpo", pairs(row5=EQUAL), "data-check", ["rows.jsonl:5: both are `the same`"]),
    "orpo with equal answers": (PAIRS, "orpo", pairs(row5=EQUAL), "data-check", ["rows.jsonl:5: both are `the same`"]),
    "dpo with plain rows": (PAIRS, "dpo", PLAIN, "preference-invalid", ["24 of 24 row(s)", "rows.jsonl:1\n", "dpo"]),
    "kto without labels": (PAIRS, "kto", PLAIN, "preference-invalid", ["neither a label", "rows.jsonl:1\n", "kto"]),
    "kto with a label missing": (
        PAIRS,
        "kto",
        judged(row6=None),
        "data-field",
        ["rows.jsonl:6: field `label` is null"],
    ),
    "kto with a label of text": (PAIRS, "kto", judged(row6="maybe"), "data-field", ["rows.jsonl:6: ", "got 'maybe'"]),
    "rows without a trained token": (PAIRS, "supervised", MASKED, "messages-invalid", ["rows.jsonl:1: no assistant"]),
    "one class": (RECIPE, "classification", tones("joy"), "data-check", ["all 14 rows have the answer 'joy'"]),
    "a pair label of text": (
        RECIPE,
        "{kind: contrastive, loss: margin, pair_label: tone}",
        tones("joy", "fear"),
        "data-field",
        ["rows.jsonl:2: tone is 'fear'; it must be 1 (unlike) or 0 (alike)"],
    ),
    "a row alone in its batch": (
        BY_ROWS,
        "contrastive",
        tones("joy", "fear"),
        "recipe-invalid",
        ["recipe.yaml:11: training.batch_size: 1 leaves a row alone in its step"],
    ),
}


@pytest.mark.parametrize("name", DATA_MISTAKES)
def test_rows_that_an_objective_cannot_learn_from_are_named_by_line(
    name: str, tiny_base: Path, fresh: Path, kivnun_here: Command
) -> None:
    recipe, objective, rows, code, says = DATA_MISTAKES[name]
    (fresh / "recipe.yaml").write_text(recipe.format(base=tiny_base), "utf-8")
    write_jsonl(fresh / "rows.jsonl", rows)
    ended = kivnun_here("run", "recipe.yaml", "--set", f"training.objective={objective}")
    require_refusal(ended, code, says)
    assert finished_stages(fresh / RUN) == set()
    assert leftovers(fresh) == []


@pytest.mark.parametrize("split", ["validation", "test"])
def test_a_class_that_no_training_row_has_is_refused_by_line(split: str, fresh: Path, kivnun_here: Command) -> None:
    write_jsonl(fresh / "rows.jsonl", tones("joy", "fear"))
    write_jsonl(fresh / "held-out.jsonl", [{"phrase": "a", "tone": "joy"}, {"phrase": "b", "tone": "anger"}])
    settings = ("training.objective=classification", f"data.{split}=held-out.jsonl", f"data.split.{split}=0")
    ended = kivnun_here(*Mistake(settings, "", []).arguments(Path("recipe.yaml")))
    require_refusal(ended, "data-check", ["held-out.jsonl:2: label 'anger'", "never stands in train"])
    assert finished_stages(fresh / RUN) == set()


def test_a_loss_that_turns_nan_leaves_its_rows_and_the_last_checkpoint_and_the_folder_stays_of_use(
    fresh: Path, trained: Path, kivnun_here: Command
) -> None:
    wild = ("run", "recipe.yaml", "--set", "training.learning_rate=1e30")
    for attempt in range(2):
        ended = kivnun_here(*wild)
        path = RUN / "bad-batch" / "step-000002.jsonl"
        says = ["the loss of step 2 is nan", f"{path}: ", "the weights are to blame", "lower training.learning_rate"]
        require_refusal(ended, "loss-not-finite", says)
        assert ("going on after step 1" in ended.err) == (attempt == 1)
        assert finished_stages(fresh / RUN) == {"dataset"}
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    assert {row["loss"] for row in rows} == {"nan"}
    phrases = {row["phrase"] for row in example_rows(24)}
    assert all(any(phrase in json.dumps(row, ensure_ascii=False) for phrase in phrases) for row in rows)
    assert [folder.name for folder in (fresh / RUN / "checkpoints").iterdir()] == ["step-000001"]
    verify_artifact(fresh / RUN / "checkpoints" / "step-000001")
    ended = kivnun_here("run", "recipe.yaml")
    assert ended.status == 0, ended.err
    assert hash_of(fresh / RUN / ADAPTER) == hash_of(trained / RUN / ADAPTER)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-10] ^= 4
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


DAMAGES: dict[str, Callable[[Path], None]] = {
    "a bit of the weights flipped": lambda folder: flip(folder / "state.safetensors"),
    "weights cut off": lambda folder: cut(folder / "state.safetensors"),
    "progress gone": lambda folder: (folder / "progress.json").unlink(),
    "manifest gone": lambda folder: (folder / "artifact.json").unlink(),
    "manifest cut off": lambda folder: cut(folder / "artifact.json"),
    "nothing left": lambda folder: [file.unlink() for file in folder.iterdir()],
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_checkpoint_is_left_for_an_older_one_with_the_same_end(
    name: str, untrained: Path, trained: Path, kivnun_here: Command
) -> None:
    DAMAGES[name](untrained / RUN / "checkpoints" / "step-000003")
    ended = kivnun_here("run", "recipe.yaml")
    assert ended.status == 0, ended.err
    assert "going on after step 2" in ended.err
    if "manifest" not in name and name != "nothing left":
        assert "warning: checkpoint step-000003 is damaged and not used: " in ended.err
    assert hash_of(untrained / RUN / ADAPTER) == hash_of(trained / RUN / ADAPTER)
    assert leftovers(untrained / RUN) == []
    verify_artifact(untrained / RUN / "checkpoints" / "step-000003")


def test_where_every_checkpoint_is_damaged_the_training_begins_anew_with_the_same_end(
    untrained: Path, trained: Path, kivnun_here: Command
) -> None:
    for folder in (untrained / RUN / "checkpoints").iterdir():
        flip(folder / "state.safetensors")
    ended = kivnun_here("run", "recipe.yaml")
    assert ended.status == 0, ended.err
    assert ended.err.count("is damaged and not used: ") == 2
    assert [each["step"] for each in read_events(untrained / RUN) if each["event"] == "step"][-3:] == [1, 2, 3]
    assert hash_of(untrained / RUN / ADAPTER) == hash_of(trained / RUN / ADAPTER)


def test_no_training_goes_on_from_the_checkpoints_of_another_recipe(
    untrained: Path, trained: Path, kivnun_here: Command
) -> None:
    options = ("run", "recipe.yaml", "--set", "training.learning_rate=1e-3")
    ended = kivnun_here(*options)
    assert ended.status == 0, ended.err
    assert "going on" not in ended.err
    assert kivnun_here(*options, "--run-dir", "alone").status == 0
    assert hash_of(untrained / RUN / ADAPTER) == hash_of(untrained / "alone" / ADAPTER)
    assert hash_of(untrained / RUN / ADAPTER) != hash_of(trained / RUN / ADAPTER)


@pytest.fixture
def changed_base(tiny_base: Path, fresh: Path) -> Path:
    """A base model of the same shapes as the one of the recipe, with one weight matrix a little off."""
    folder = fresh / "base"
    shutil.copytree(tiny_base, folder)
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if "q_proj" in name)
    save_file({**weights, name: weights[name] + 1e-3}, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_an_adapter_is_refused_on_other_weights_of_the_same_shapes(
    changed_base: Path, tiny_base: Path, trained: Path
) -> None:
    load_tuned(tiny_base, trained / RUN / "model", dtype=torch.float32)
    with pytest.raises(UserError) as refusal:
        load_tuned(changed_base, trained / RUN / "model", dtype=torch.float32)
    assert refusal.value.code == "adapter-invalid"
    assert str(changed_base) in refusal.value.problem
    assert [line.split(":")[0] for line in refusal.value.details] == [f"trained on {tiny_base}", "given"]
    assert str(tiny_base) in refusal.value.hint


def test_a_run_does_not_answer_once_its_base_model_changed_and_is_trained_anew(
    changed_base: Path, tiny_base: Path, fresh: Path, kivnun_here: Command
) -> None:
    (fresh / "recipe.yaml").write_text(RECIPE.format(base="./base"), "utf-8")
    (changed_base / "model.safetensors").rename(fresh / "changed.safetensors")
    shutil.copy(tiny_base / "model.safetensors", changed_base)
    assert kivnun_here("run", "recipe.yaml").status == 0
    assert kivnun_here("generate", "recipe", "I am glad").status == 0
    (fresh / "changed.safetensors").rename(changed_base / "model.safetensors")
    for words in (("generate", "recipe", "I am glad"), ("chat", "recipe")):
        refused = kivnun_here(*words, stdin="I am glad\n")
        require_refusal(refused, "model-invalid", ["base is not the one that"])
    ended = kivnun_here("run", "recipe.yaml")
    assert ended.status == 0, ended.err
    assert "unchanged" not in ended.err
    assert kivnun_here("generate", "recipe", "I am glad").status == 0


HUNGRY = """
import resource, sys
import psutil, torch
import kivnun.pipeline
from kivnun.cli.app import main
torch.set_num_threads(1)
limit = psutil.Process().memory_info().vms + 200 * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
main()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="address space is bounded as Linux does it")
def test_where_memory_runs_out_the_setting_that_fits_is_named_and_leads_on(fresh: Path, kivnun_here: Command) -> None:
    names = ("joy", "fear", "anger")
    numbers = [" ".join(str((row * 7 + place * 13) % 97) for place in range(60)) for row in range(400)]
    rows = [{"phrase": f"row {row} {text}", "tone": names[row % 3]} for row, text in enumerate(numbers)]
    write_jsonl(fresh / "rows.jsonl", rows)
    settings = ("training.batch_tokens=100000", "training.max_steps=1", "training.micro_batch_tokens=100000")
    command = Mistake(settings, "", []).arguments(Path("recipe.yaml"))
    environment = clean_environment(MALLOC_ARENA_MAX="1", TOKENIZERS_PARALLELISM="false")
    done = subprocess.run(
        [sys.executable, "-c", HUNGRY, *command], env=environment, capture_output=True, text=True, check=False
    )
    says = ["memory ran out in step 1, with ", "hint: set training.micro_batch_tokens to "]
    require_refusal(Ended(done.returncode, done.stdout, done.stderr), "memory-full", says)
    assert finished_stages(fresh / RUN) == {"dataset"}
    assert leftovers(fresh) == []
    fits = done.stderr.partition("training.micro_batch_tokens to ")[2].split()[0]
    ended = kivnun_here(*command, "--set", f"training.micro_batch_tokens={fits}")
    assert ended.status == 0, ended.err
    assert "[dataset] unchanged" in ended.err
