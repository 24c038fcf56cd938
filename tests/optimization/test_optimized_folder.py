"""The `optimized/` folder: what is kept is what was compared, and it stops where Kivnun stops."""

import json
from pathlib import Path

import pytest
import tiny_llama
from safetensors.torch import load_file, save_file

from kivnun.errors import UserError
from kivnun.models.save import save_model
from kivnun.optimization import stage
from kivnun.recipe.schema import OptimizationSection

END_OF_TURN = 5


def optimize(model_folder: Path, out_folder: Path, stop_ids: set[int], precision: str) -> None:
    out_folder.mkdir()
    stage.optimize(
        stage.TunedFolders(model_folder, model_folder),
        out_folder,
        OptimizationSection.model_validate({"precision": precision}),
        prompts=stage.Prompts([[17, 23, 40], [300, 2]], 4, frozenset(stop_ids)),
        score=lambda _answers: None,
        log=lambda _event, _fields: None,
    )


@pytest.mark.parametrize(
    ("stop_ids", "precision", "expected"),
    [
        ({tiny_llama.END}, "fp32", tiny_llama.END),
        ({tiny_llama.END, END_OF_TURN}, "int4", [tiny_llama.END, END_OF_TURN]),
    ],
)
def test_other_tools_stop_where_we_stop(tiny_folder, tmp_path, stop_ids: set[int], precision: str, expected: object):
    optimize(tiny_folder, tmp_path / "optimized", stop_ids, precision)
    generation = json.loads((tmp_path / "optimized" / "merged" / "generation_config.json").read_text())
    assert generation["eos_token_id"] == expected
    genai = json.loads((stage.onnx_folder(tmp_path / "optimized") / "genai_config.json").read_text())
    assert genai["model"]["eos_token_id"] == expected


def test_a_merged_model_that_was_not_saved_whole_is_refused(tiny_folder, tmp_path, monkeypatch):
    def save_badly(model, tokenizer, folder: Path) -> None:
        save_model(model, tokenizer, folder)
        weights = load_file(folder / "model.safetensors")
        save_file({name: -weight for name, weight in weights.items()}, folder / "model.safetensors", {"format": "pt"})

    monkeypatch.setattr(stage, "save_model", save_badly)
    with pytest.raises(UserError, match="merged answers 2 of 2 prompts differently") as caught:
        optimize(tiny_folder, tmp_path / "optimized", {tiny_llama.END}, "fp32")
    assert caught.value.code == "parity-failed"
