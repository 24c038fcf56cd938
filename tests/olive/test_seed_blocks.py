"""Every block of code in the seeds 000 and 004 runs here, or is refused with a named error; both are counted."""

import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from olive_workshop import TEMPLATE, Ended, Workshop, call, write_rows
from packaging.requirements import Requirement
from seed_blocks import BLOCKS, REPLACED

from kivnun.generation.engine import Engine
from kivnun.generation.onnx_engine import OnnxEngine
from kivnun.generation.torch_engine import TorchEngine
from kivnun.methods import load_tuned
from kivnun.models.load import load_model
from kivnun.training.objectives.contrastive import margin_losses

RUNS = ""
REFUSED, AZURE_INVALID, SIGNED_OUT = "olive-invalid", "azure-invalid", "azure-credentials"
OUTCOMES = {
    "000-01": RUNS,  # installs Kivnun with the extra auto-opt
    "000-02": RUNS,  # installs the extras cpu, gpu, directml and azureml
    "000-03": RUNS,
    "000-04": RUNS,
    "000-05": RUNS,
    "000-06": RUNS,
    "000-07": RUNS,  # the rows of 000-08
    "000-08": RUNS,
    "000-09": REFUSED,  # --setup: there is nothing to set up
    "000-10": RUNS,
    "000-11": REFUSED,  # finetune without model and data; its last command runs
    "000-12": RUNS,  # `kivnun search RECIPE --space FILE`
    "000-13": RUNS,  # the objective `contrastive` with the loss `margin` is this loss
    "000-14": RUNS,
    "000-15": REFUSED,  # finetune without model and data
    "000-16": RUNS,  # in the file of 000-08
    "000-17": REFUSED,  # finetune without model and data
    "000-18": REFUSED,  # dataloader_num_workers has no effect
    "004-01": RUNS,
    "004-02": RUNS,
    "004-03": RUNS,
    "004-04": RUNS,
    "004-05": RUNS,
    "004-06": SIGNED_OUT,  # the job is written, and sent once somebody is signed in
    "004-07": REFUSED,  # azure_arc is named by neither host nor target; hf_token asks for a secret in the job
    "004-08": AZURE_INVALID,  # the environment does not install Kivnun
    "004-09": RUNS,
    "004-10": SIGNED_OUT,
    "004-11": REFUSED,  # double_quant belongs to QLoRA
    "004-12": RUNS,
    "004-13": SIGNED_OUT,
    "004-14": REFUSED,  # the whole file: 004-07 and 004-11 are in it
}
"""What becomes of each block: it runs, or the code of the error that refuses it."""

ROOT = Path(__file__).parents[2]
PAGE = {
    block: (outcome, note)
    for block, outcome, note in re.findall(
        r"^\| (\d{3}-\d{2}) \| ([^|]+) \| (.+) \|$", (ROOT / "docs/reference/olive.md").read_text("utf-8"), re.MULTILINE
    )
}
"""What the page on Olive says of each block, and why."""
AZURE_NAMES = re.compile(r'^ *"azure_arc".*?^ {8}\},?\n', re.MULTILINE | re.DOTALL)


def text_of(block: str, workshop: Workshop) -> str:
    text = BLOCKS[block][1]
    for before, after in REPLACED.items():
        text = text.replace(before, after)
    for name in ("llama", "gpt2", "phi3", "rows"):
        text = text.replace(f"{{{name}}}", str(getattr(workshop, name)))
    return text


def commands(block: str, workshop: Workshop) -> list[list[str]]:
    """The words of every command in a block."""
    lines = text_of(block, workshop).replace("\\\n", " ").splitlines()
    # shlex takes any # for a comment, and addresses have one.
    plain = [re.sub(r"  # .*$", "", line) for line in lines if not line.startswith("#")]
    return [words for line in plain if (words := shlex.split(line))]


def kivnun(words: list[str]) -> Ended:
    assert words[0] == "kivnun"
    return call(*words[1:])


def require(block: str, ended: Ended) -> None:
    """The block ended as the table says."""
    code = OUTCOMES[block]
    if code == RUNS:
        assert ended.status == 0, ended.err
    else:
        assert ended.status == 2
        assert f"error[{code}]: " in ended.err


def pieces(workshop: Workshop, *numbers: int) -> str:
    """Pieces of the seed's configuration, each with its comma."""
    return "".join(text_of(f"004-{number:02}", workshop).strip().rstrip(",") + ",\n" for number in numbers)


def passes(workshop: Workshop, *, mended: bool) -> str:
    lora = pieces(workshop, 11)
    if mended:
        lora, count = re.subn(r'^ *"double_quant": true,\n', "", lora, flags=re.MULTILINE)
        assert count == 1
    return f'"passes": {{\n{lora}{pieces(workshop, 12).rstrip().rstrip(",")}\n}},\n'


def write_config(path: str, *parts: str) -> None:
    Path(path).write_text("{\n" + "".join(parts).rstrip().rstrip(",") + "\n}\n", "utf-8")


def _without_egg(word: str) -> str:
    """A package at an address as pip 26 takes it, which refuses extras behind `#egg=`."""
    address, _, named = word.partition("#egg=")
    return f"{named} @ {address}"


INSTALLS = ("000-01", "000-02", "004-01", "004-02", "004-03", "004-04")


@pytest.mark.parametrize("block", INSTALLS)
def test_what_is_installed_is_an_extra_or_a_dependency(block: str, workshop: Workshop) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"]
    needed = {Requirement(text).name for text in project["dependencies"]}
    installs = [words[2:] for words in commands(block, workshop) if words[:2] == ["pip", "install"]]
    assert installs
    for word in (word for words in installs for word in words):
        requirement = Requirement(_without_egg(word) if "#egg=" in word else word)
        assert requirement.name in {"kivnun", *needed}
        for extra in requirement.extras:
            assert all(str(Requirement(text).specifier) for text in extras[extra])


def test_the_page_writes_an_extra_of_an_address_as_pip_takes_it(workshop: Workshop) -> None:
    ((*_, word),) = commands("004-04", workshop)
    named = _without_egg(word)
    assert Requirement(named).extras == {"azureml"}
    assert f'pip install "{named.replace("microsoft/Olive", "OWNER/REPO")}"' in PAGE["004-04"][1]


def test_the_installation_is_checked(workshop: Workshop) -> None:
    shown, imported = commands("000-03", workshop)
    require("000-03", kivnun(shown))
    assert imported[:2] == ["python", "-c"]
    ended = subprocess.run([sys.executable, *imported[1:]], capture_output=True, text=True, check=True)
    assert ended.stdout == "Kivnun installed successfully\n"


def test_the_project_folder_is_made(here: Path, workshop: Workshop) -> None:
    *lines, sign_in = commands("000-04", workshop)
    subprocess.run(["bash", "-ec", "\n".join(map(shlex.join, lines))], check=True)
    assert Path("fine-tuning-project").is_dir()
    # The hub's own command, which its package installs under a new name, as the page says.
    assert sign_in == ["huggingface-cli", "login"]
    assert "`hf auth login`" in PAGE["000-04"][1]
    assert Path(sys.executable).with_name("hf").is_file()


@pytest.fixture(scope="module")
def seed_project(workshop: Workshop, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ended, Ended]:
    """The seed's first example: what it tuned and exported, in one folder."""
    folder = tmp_path_factory.mktemp("project")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        ((tune,), (export,)) = (commands(block, workshop) for block in ("000-05", "000-06"))
        return folder, kivnun(tune), kivnun(export)


def test_the_basic_tuning_runs(seed_project: tuple[Path, Ended, Ended]) -> None:
    folder, tuned, _ = seed_project
    require("000-05", tuned)
    assert (folder / "models/llama/ft/adapter/adapter_model.safetensors").is_file()
    assert (folder / "models/llama/ft/model/config.json").is_file()


def test_the_export_for_deployment_runs_and_answers(seed_project: tuple[Path, Ended, Ended]) -> None:
    folder, _, exported = seed_project
    require("000-06", exported)
    onnx = folder / "models/llama/onnx"
    assert {"model.onnx", "genai_config.json", "tokenizer.json", "parity.json"} <= {
        path.name for path in onnx.iterdir()
    }
    rows = json.loads((onnx / "parity.json").read_bytes())["rows"]
    assert [(row["name"], row["different"]) for row in rows] == [("tuned", 0), ("merged", 0), ("fp32 ONNX", 0)]
    (answer,) = OnnxEngine(onnx).generate([[5, 6, 7]], max_new_tokens=3, stop_ids=frozenset())
    assert len(answer.token_ids) == 3


def write_own_file(workshop: Workshop) -> str:
    Path("dataset.json").write_text(text_of("000-07", workshop), "utf-8")
    text = text_of("000-08", workshop)
    Path("olive-config.yaml").write_text(text, "utf-8")
    return text


def test_rows_and_configuration_of_ones_own_run(here: Path, workshop: Workshop) -> None:
    write_own_file(workshop)
    ended = call("run", "--config", "olive-config.yaml")
    require("000-07", ended)
    require("000-08", ended)
    summary = json.loads(Path("runs/olive-config/dataset/summary.json").read_bytes())
    assert summary["splits"]["train"]["rows"] == 2
    config = json.loads(Path("runs/olive-config/model/adapter_config.json").read_bytes())
    assert (config["r"], config["lora_alpha"]) == (16, 32)
    assert {name.rpartition(".")[2] for name in config["modules_to_save"]} == {"ln_f", "lm_head"}


def test_setup_is_refused_and_the_rest_of_the_command_is_what_runs(here: Path, workshop: Workshop) -> None:
    write_own_file(workshop)
    ((*words, setup),) = commands("000-09", workshop)
    assert words == ["kivnun", "run", "--config", "olive-config.yaml"]
    require("000-09", kivnun([*words, setup]))


def test_qlora_with_slices_of_one_file_runs(here: Path, workshop: Workshop) -> None:
    write_rows(
        here / "codes.json",
        [
            {"programming_language": f"L{number % 9}", "prompt": f"{number} times 7", "response": f"= {7 * number}"}
            for number in range(4224)
        ],
    )
    (words,) = commands("000-10", workshop)
    require("000-10", kivnun(words))
    splits = json.loads(Path("adapters/tiny-codes/run/dataset/summary.json").read_bytes())["splits"]
    assert {name: counts["rows"] for name, counts in splits.items()} == {"train": 4096, "validation": 128, "test": 0}


@pytest.fixture(scope="module")
def joined(workshop: Workshop, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ended]:
    """The chain of the seed's block on several adapters: tunings that are told the model and the data, and the join."""
    folder = tmp_path_factory.mktemp("joined")
    told = ["-m", str(workshop.llama), "-d", str(workshop.rows), "--text_template", TEMPLATE, "--max_steps", "2"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        *tunings, join = commands("000-11", workshop)
        for words in tunings:
            ended = kivnun([*words, *told, "--torch_dtype", "float32", "--learning_rate", "5e-3"])
            assert ended.status == 0, ended.err
        return folder / "models/multi-adapter", kivnun(join)


def test_several_adapters_are_refused_without_data_and_joined_with(
    here: Path, workshop: Workshop, joined: tuple[Path, Ended]
) -> None:
    for words in commands("000-11", workshop)[:-1]:
        require("000-11", kivnun(words))
    folder, ended = joined
    assert ended.status == 0, ended.err
    names = {path.name for path in folder.rglob("*.onnx_adapter")}
    assert names == {"classifier.onnx_adapter", "generator.onnx_adapter"}


PROMPTS = [[5, 6, 7], [40, 41]]


def answers(engine: Engine) -> list[tuple[int, ...]]:
    return [answer.token_ids for answer in engine.generate(PROMPTS, max_new_tokens=4, stop_ids=frozenset())]


def test_trap_10_an_exported_adapter_has_the_names_of_its_model_and_answers_as_in_torch(
    joined: tuple[Path, Ended], workshop: Workshop
) -> None:
    left = joined[0].parents[1] / "adapters/classifier"
    tuned = load_tuned(left / "model", left / "adapter", dtype=torch.float32)
    assert answers(OnnxEngine(joined[0]).with_adapter("classifier")) == answers(TorchEngine(tuned, pad_id=0))


def test_trap_11_a_base_with_adapters_answers_without_one_too(joined: tuple[Path, Ended], workshop: Workshop) -> None:
    base = load_model(workshop.llama, dtype=torch.float32)
    assert answers(OnnxEngine(joined[0])) == answers(TorchEngine(base, pad_id=0))


def test_the_search_space_is_read_as_it_is(here: Path, workshop: Workshop) -> None:
    Path("hyperparameter-search.yaml").write_text(text_of("000-12", workshop), "utf-8")
    recipe = {
        "base_model": str(workshop.llama),
        "data": {"train": str(workshop.rows), "text_template": "{phrase}{tone}"},
    }
    Path("recipe.yaml").write_text(json.dumps(recipe), "utf-8")
    ended = call("search", "recipe.yaml", "--space", "hyperparameter-search.yaml", "--dry-run")
    require("000-12", ended)
    for said in ("learning_rate: 1e-06 to 0.001", "rank: 8 to 64", "batch_size: one of 8, 16, 32", "20 trials"):
        assert said in ended.out


def test_the_loss_of_ones_own_is_one_that_is_here(workshop: Workshop) -> None:
    names: dict[str, Callable[..., torch.nn.Module]] = {}
    exec(text_of("000-13", workshop), names)  # noqa: S102 - the seed's own class
    one, other = torch.randn(6, 5, dtype=torch.float64), torch.randn(6, 5, dtype=torch.float64)
    unlike = torch.tensor([0.0, 1, 1, 0, 1, 0], dtype=torch.float64)
    expected = names["CustomContrastiveLoss"](margin=4.0)(one, other, unlike)
    pairs = torch.stack([one, other], dim=1).flatten(0, 1)
    # torch adds 1e-6 to each difference, so that a distance of zero has a gradient.
    torch.testing.assert_close(margin_losses(pairs, unlike, 4.0).mean(), expected, rtol=1e-5, atol=1e-5)


def test_the_evaluation_script_runs_as_printed_where_datasets_is_installed(
    merged: Path, workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = text_of("000-14", workshop)
    names: dict[str, Callable[..., object]] = {}
    if importlib.util.find_spec("datasets") is None:
        # Kivnun does not need it, and the script imports what it does not use; the page says how it is installed.
        assert text.count("load_dataset") == 1
        with pytest.raises(ModuleNotFoundError, match="datasets"):
            exec(text, {})  # noqa: S102 - the seed's own lines
        stand_in = ModuleType("datasets")
        monkeypatch.setattr(stand_in, "load_dataset", None, raising=False)
        monkeypatch.setitem(sys.modules, "datasets", stand_in)
    exec(text, names)  # noqa: S102 - the seed's own function
    assert names["evaluate_model"](str(merged), [{"phrase": "a"}]) == {}
    assert "`pip install datasets`" in PAGE["000-14"][1]


@pytest.mark.parametrize("block", ["000-15", "000-17"])
def test_a_tuning_without_model_and_data_is_refused_and_its_flags_are_known(
    block: str, here: Path, workshop: Workshop
) -> None:
    (words,) = commands(block, workshop)
    ended = kivnun(words)
    require(block, ended)
    lines = [line for line in ended.err.splitlines() if line.startswith("  ")]
    assert [line.split(": ")[1] for line in lines] == ["--model_name_or_path", "--data_name"]
    more = ["-m", str(workshop.llama), "-d", str(workshop.rows), "--text_template", "{phrase}\\n{tone}"]
    assert kivnun([*words, *more, "--dry_run"]).status == 0


def with_own_file(block: str, workshop: Workshop, path: str) -> Ended:
    """A piece of a file, run in the file of the seed's second example."""
    whole = write_own_file(workshop)
    piece = text_of(block, workshop)
    base = whole.partition("passes:")[0] if "passes:" in piece else f"{whole}\n"
    Path(path).write_text(f"{base}{piece}\n", "utf-8")
    return call("run", "--config", path)


def test_regularization_runs(here: Path, workshop: Workshop) -> None:
    require("000-16", with_own_file("000-16", workshop, "regular.yaml"))
    lock = json.loads(Path("runs/regular/run.lock.json").read_bytes())["recipe"]
    assert lock["method"]["dropout"] == 0.1
    assert lock["training"]["weight_decay"] == 0.01


def test_workers_that_nothing_waits_for_are_refused_by_name(here: Path, workshop: Workshop) -> None:
    ended = with_own_file("000-18", workshop, "fast.yaml")
    require("000-18", ended)
    assert [line for line in ended.err.splitlines() if "training_config" in line and "num_workers" not in line] == []


@pytest.fixture(scope="module")
def local_run(workshop: Workshop, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ended]:
    """The seed's configuration without Azure, from its pieces: local rows, local model, LoRA, merge, int4."""
    folder = tmp_path_factory.mktemp("local")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_config("local.json", pieces(workshop, 9, 5), passes(workshop, mended=True))
        return folder / "runs" / "local", call("run", "local.json")


@pytest.fixture(scope="module")
def merged(local_run: tuple[Path, Ended]) -> Path:
    return local_run[0] / "optimized" / "merged"


@pytest.mark.parametrize("block", ["004-05", "004-09", "004-12"])
def test_the_pieces_of_a_local_configuration_run_as_one(block: str, local_run: tuple[Path, Ended]) -> None:
    folder, ended = local_run
    require(block, ended)
    lock = json.loads((folder / "run.lock.json").read_bytes())["recipe"]
    assert (lock["method"]["rank"], lock["method"]["alpha"]) == (64, 64)
    assert lock["data"]["max_seq_len"] == 2048
    kept = {path.name for path in (folder / "optimized").iterdir()}
    assert any(name.startswith("onnx-int4") for name in kept)
    assert "merged" in kept


def test_a_setting_of_qlora_on_lora_is_refused_with_its_line(here: Path, workshop: Workshop) -> None:
    write_config("local.json", pieces(workshop, 9, 5), passes(workshop, mended=False))
    ended = call("run", "local.json")
    require("004-11", ended)
    assert re.search(r"local\.json:\d+: passes\.lora\.config\.double_quant: has no effect", ended.err)


def write_azure(workshop: Workshop, path: str, *, mended: bool, conda: bool = True) -> None:
    systems = pieces(workshop, 7)
    if mended:
        systems, count = AZURE_NAMES.subn("", systems)
        assert count == 1
        systems, count = re.subn(r'^ *"hf_token": true,\n', "", systems, flags=re.MULTILINE)
        assert count == 1
        systems = re.sub(r",(\s*\})", r"\1", systems)
    if not conda:
        systems = re.sub(r',\s*"conda_file_path": "conda.yaml"', "", systems)
    write_config(path, pieces(workshop, 10, 6), systems, passes(workshop, mended=True), pieces(workshop, 13))


def test_a_system_that_nothing_names_is_refused(here: Path, workshop: Workshop) -> None:
    write_azure(workshop, "azure.json", mended=False)
    ended = call("run", "azure.json")
    require("004-07", ended)
    assert "systems.azure_arc: has no effect" in ended.err
    assert re.search(r"systems\.aml\.config\.hf_token: no token is put into a job", ended.err)
    assert "hf download ORG/NAME --local-dir FOLDER" in ended.err


def test_an_environment_without_kivnun_is_refused(here: Path, workshop: Workshop) -> None:
    Path("conda.yaml").write_text(text_of("004-08", workshop), "utf-8")
    write_azure(workshop, "azure.json", mended=True)
    require("004-08", call("run", "azure.json"))


@pytest.fixture(scope="module")
def azure_run(workshop: Workshop, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ended]:
    """The seed's configuration with all of Azure, where nobody is signed in."""
    folder = tmp_path_factory.mktemp("azure")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_azure(workshop, "azure.json", mended=True, conda=False)
    # In a process of its own: Azure's packages warn of each other when they are loaded.
    words = [sys.executable, "-m", "kivnun", "run", "azure.json"]
    signed_out = {**os.environ, "AZURE_CONFIG_DIR": str(folder), "AZURE_TOKEN_CREDENTIALS": "AzureCliCredential"}
    ended = subprocess.run(words, cwd=folder, env=signed_out, capture_output=True, text=True, check=False)
    return folder, Ended(ended.returncode, ended.stdout, ended.stderr)


@pytest.mark.parametrize("block", ["004-06", "004-10", "004-13"])
def test_what_runs_on_azure_is_written_and_not_sent_without_a_sign_in(
    block: str, azure_run: tuple[Path, Ended]
) -> None:
    folder, ended = azure_run
    require(block, ended)
    job = (folder / "models/phi3/job/job.yml").read_text("utf-8")
    assert "azureml://registries/azureml-msr/models/" in job
    assert "azureml://" in job
    assert "workspaceblobstore" in job


def test_the_whole_file_is_refused_with_every_key_that_has_no_effect(here: Path, workshop: Workshop) -> None:
    write_config("olive-config.json", pieces(workshop, 9, 5, 7), passes(workshop, mended=False), pieces(workshop, 13))
    (words,) = commands("004-14", workshop)
    ended = kivnun(words)
    require("004-14", ended)
    for key in ("double_quant", "azure_arc", "systems.aml"):
        assert key in ended.err


def test_every_block_is_in_the_table_and_both_kinds_are_counted() -> None:
    assert set(OUTCOMES) == set(BLOCKS)
    assert len(BLOCKS) == 32
    counts = {code or "runs": list(OUTCOMES.values()).count(code) for code in OUTCOMES.values()}
    assert counts == {"runs": 20, REFUSED: 8, AZURE_INVALID: 1, SIGNED_OUT: 3}


def test_the_page_on_olive_says_what_becomes_of_each_block() -> None:
    assert {block: outcome for block, (outcome, _) in PAGE.items()} == {
        block: f"**error** (`{code}`)" if code else "runs" for block, code in OUTCOMES.items()
    }
