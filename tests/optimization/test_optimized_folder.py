"""The `optimized/` folder: what is kept is what was compared, and it stops where Kivnun stops."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny_llama
from safetensors.torch import load_file, save_file

from kivnun.errors import UserError
from kivnun.generation.agreement import ParityRow
from kivnun.models.save import save_model
from kivnun.optimization import stage
from kivnun.optimization.certificate import onnx_folder, read_certificate, read_parity
from kivnun.optimization.golden import Golden, GoldenPrompt
from kivnun.recipe.schema import OptimizationSection

END_OF_TURN = 5


def golden_of(prompts: list[list[int]], *, stop_ids: set[int], max_new_tokens: int = 4) -> Golden:
    return Golden(tuple(GoldenPrompt(tuple(ids), None) for ids in prompts), max_new_tokens, frozenset(stop_ids), None)


def optimize(
    model_folder: Path,
    out_folder: Path,
    stop_ids: set[int],
    events: list[tuple[str, dict]] | None = None,
    scores: Iterator[float] | None = None,
    **settings: object,
) -> list[ParityRow]:
    out_folder.mkdir()
    return stage.optimize(
        stage.TunedFolders(model_folder, model_folder),
        out_folder,
        OptimizationSection.model_validate(settings),
        golden=golden_of([[17, 23, 40], [300, 2]], stop_ids=stop_ids),
        score=lambda _answers: None if scores is None else next(scores),
        log=lambda event, fields: events.append((event, dict(fields))) if events is not None else None,
        calibration=[[17, 23, 40, 300, 2, 9], [8, 7, 6, 5]],
    )


@pytest.mark.parametrize(
    ("stop_ids", "precision", "expected"),
    [
        ({tiny_llama.END}, "fp32", tiny_llama.END),
        ({tiny_llama.END, END_OF_TURN}, "int4", [tiny_llama.END, END_OF_TURN]),
    ],
)
def test_other_tools_stop_where_we_stop(tiny_folder, tmp_path, stop_ids: set[int], precision: str, expected: object):
    rows = optimize(tiny_folder, tmp_path / "optimized", stop_ids, precision=precision)
    generation = json.loads((tmp_path / "optimized" / "merged" / "generation_config.json").read_text())
    assert generation["eos_token_id"] == expected
    genai = json.loads((onnx_folder(tmp_path / "optimized") / "genai_config.json").read_text())
    assert genai["model"]["eos_token_id"] == expected
    assert read_parity(tmp_path / "optimized") == rows
    kept = {path.name for path in (tmp_path / "optimized").iterdir() if path.is_dir()}
    assert kept == {"merged", f"onnx-{precision}"} == set(read_certificate(tmp_path / "optimized").files)


def test_a_gguf_file_that_scores_below_the_limit_is_not_shipped_beside_a_form_that_keeps_it(tiny_folder, tmp_path):
    scores = iter([0.9, 0.9, 0.9, 0.5])
    with pytest.raises(UserError, match=r"q8_0 GGUF: min_score is 0\.8, it has 0\.5") as caught:
        optimize(
            tiny_folder, tmp_path / "o", {tiny_llama.END}, scores=scores, precision="fp32", gguf="q8_0", min_score=0.8
        )
    assert caught.value.code == "limits-unmet"


def test_a_merged_model_that_was_not_saved_whole_is_refused(tiny_folder, tmp_path, monkeypatch):
    def save_badly(model, tokenizer, folder: Path) -> None:
        save_model(model, tokenizer, folder)
        weights = load_file(folder / "model.safetensors")
        save_file({name: -weight for name, weight in weights.items()}, folder / "model.safetensors", {"format": "pt"})

    monkeypatch.setattr(stage, "save_model", save_badly)
    with pytest.raises(UserError, match="merged answers 2 of 2 prompts differently") as caught:
        optimize(tiny_folder, tmp_path / "optimized", {tiny_llama.END}, precision="fp32")
    assert caught.value.code == "parity-failed"
