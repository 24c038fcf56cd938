"""Base models that cannot be loaded are refused when the server starts, with what should be named in their place."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from kivnun.errors import UserError
from kivnun.server.servable import require_models, require_servable
from kivnun.server.service import ServeSettings


def refusal(source: Path | str) -> UserError:
    with pytest.raises(UserError) as raised:
        require_servable(str(source))
    return raised.value


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    folder = tmp_path / "run" / "optimized" / "onnx-int4"
    folder.mkdir(parents=True)
    (folder / "genai_config.json").write_text(json.dumps({"model": {"decoder": {"filename": "model.onnx"}}}))
    (folder / "model.onnx").write_bytes(b"onnx")
    return folder


def test_whole_models_are_taken_in_every_form(chat_model_folder: Path, exported: Path, tmp_path: Path) -> None:
    models = {"a": str(chat_model_folder), "b": str(exported), "c": "bundled-reader", "d": "hf:some/encoder"}
    require_models(ServeSettings(tmp_path, base_model="a", models=models))
    require_models(ServeSettings(tmp_path, models={"x": "org/vllm-fetches-it"}, engine="vllm"))


def test_a_model_that_is_nowhere_is_told_with_its_flag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    for source in ("./none", f"{tmp_path}/none", "~/none", "three/parts/deep", "no slash"):
        assert refusal(source).code == "model-missing"
    assert refusal("org/nothere").hint.startswith("`hf download org/nothere` fetches it")
    with pytest.raises(UserError, match="--base-model: org/nothere is neither") as raised:
        require_models(ServeSettings(tmp_path, base_model="org/nothere"))
    assert raised.value.code == "model-missing"
    with pytest.raises(UserError, match="--model b: org/nothere is"):
        require_models(ServeSettings(tmp_path, base_model="b", models={"b": "org/nothere"}))


def test_a_run_is_refused_with_what_in_it_can_be_served(exported: Path, chat_model_folder: Path) -> None:
    run = exported.parent.parent
    for folder in (run, run.parent, run / "optimized"):
        assert refusal(folder).hint == f"name {exported}"
    shutil.copytree(chat_model_folder, run / "model")
    assert refusal(run).hint == f"name {run / 'model'} or {exported}"


def test_an_adapter_is_refused_with_what_makes_a_model_of_it(tmp_path: Path) -> None:
    for adapter, hint in (("run/model", f"`kivnun optimize {tmp_path}/run`"), ("mine", f"-a {tmp_path}/mine -o OUT")):
        folder = tmp_path / adapter
        folder.mkdir(parents=True)
        for name in ("adapter_config.json", "adapter_model.safetensors", "tokenizer.json"):
            (folder / name).write_text("{}")
        assert hint in refusal(folder).hint
    assert f"`kivnun optimize {tmp_path}/run`" in refusal(tmp_path / "run").hint


def cut_weights(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])


def point_elsewhere(folder: Path) -> None:
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")


DAMAGES: dict[str, Callable[[Path], None]] = {
    "cut": cut_weights,
    "a pointer of git-lfs": point_elsewhere,
    "no config": lambda folder: (folder / "config.json").unlink(),
    "half a config": lambda folder: (folder / "config.json").write_text("{"),
    "no tokenizer": lambda folder: (folder / "tokenizer.json").unlink(),
    "no weights": lambda folder: (folder / "model.safetensors").unlink(),
    "half an export": lambda folder: (folder / "genai_config.json").write_text("{}"),
    "empty": lambda folder: [path.unlink() for path in folder.iterdir()] and None,
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_folder_that_is_damaged_is_refused(
    chat_model_folder: Path, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(chat_model_folder, folder)
    require_servable(str(folder))
    damage(folder)
    assert refusal(folder).code == "model-invalid"


def test_an_export_without_its_network_is_refused(exported: Path) -> None:
    (exported / "model.onnx").unlink()
    assert "lacks model.onnx" in refusal(exported).problem
