"""Real exports of a tiny model: the same answers in fp32, a smaller folder in int4, and nothing left of a failure."""

import shutil
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime_genai as og
import pytest
import tiny_llama
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from kivnun.errors import UserError
from kivnun.generation.agreement import compare_answers, require_parity
from kivnun.generation.onnx_engine import OnnxEngine
from kivnun.generation.torch_engine import TorchEngine
from kivnun.optimization.forms import Form
from kivnun.optimization.measure import decode_tokens_per_second, folder_size_bytes
from kivnun.optimization.onnx import WORKER, export_onnx, require_onnx_files

TEXTS = (
    *tiny_llama.SENTENCES,
    "  two  spaces,\ttab\nand a new line ",
    "שָׁלוֹם עִם נִיקּוּד and English 🙂 12345",
    "<|endoftext|>inside<|endoftext|>",
    "",
)


def test_fp32_answers_are_identical_to_torch(fp32_folder, tiny_model, prompts):
    options = {"max_new_tokens": 24, "stop_ids": frozenset({tiny_llama.END})}
    reference = TorchEngine(tiny_model, pad_id=tiny_llama.END).generate(prompts, **options)
    agreement = compare_answers(reference, OnnxEngine(fp32_folder).generate(prompts, **options), tie_tolerance=1e-3)
    assert agreement.identical == len(prompts)
    require_parity("fp32 ONNX", agreement)


def test_a_form_whose_logits_are_all_zero_is_refused(tiny_model, tiny_folder, prompts):
    options = {"max_new_tokens": 8, "stop_ids": frozenset({tiny_llama.END})}
    broken = tiny_llama.load_tiny_llama(tiny_folder)
    broken.get_output_embeddings().weight.data.zero_()
    forms = [TorchEngine(model, pad_id=tiny_llama.END).generate(prompts, **options) for model in (tiny_model, broken)]
    with pytest.raises(UserError) as caught:
        require_parity("broken", compare_answers(*forms, tie_tolerance=1e-3))
    assert caught.value.code == "parity-failed"


def test_int4_stays_close_to_torch_in_a_fraction_of_the_size(int4_folder, fp32_folder, tiny_model, prompts):
    # A random model's answers part soon, so the first token of many prompts is asked: where torch is sure of it, int4
    # must say the same, and where it is not, far more often than the 1 in 512 of chance.
    many = [prompt[:length] for prompt in prompts for length in range(1, len(prompt) + 1)]
    options = {"max_new_tokens": 1, "stop_ids": frozenset[int]()}
    reference = TorchEngine(tiny_model, pad_id=tiny_llama.END).generate(many, **options)
    answers = OnnxEngine(int4_folder).generate(many, **options)
    clearest_first = sorted(
        zip(reference, answers, strict=True), key=lambda pair: pair[0].top_two_margins, reverse=True
    )
    equal = [first.token_ids == second.token_ids for first, second in clearest_first]
    assert sum(equal[:20]) >= 16
    assert sum(equal) > 0.3 * len(equal)
    assert (int4_folder / "model.onnx.data").stat().st_size < (fp32_folder / "model.onnx.data").stat().st_size / 4
    assert folder_size_bytes(int4_folder) < folder_size_bytes(fp32_folder) / 2


def test_of_a_prompt_only_the_last_token_is_multiplied_with_the_vocabulary(fp32_folder, int4_folder):
    for folder in (fp32_folder, int4_folder):
        outputs = onnx.load(folder / "model.onnx", load_external_data=False).graph.output
        [shape] = [output.type.tensor_type.shape.dim for output in outputs if output.name == "logits"]
        assert [shape[1].dim_value, shape[2].dim_value] == [1, 512]


def test_a_tied_matrix_is_stored_once(fp32_folder, int4_folder, tiny_folder):
    num_parameters = sum(tensor.numel() for tensor in load_file(tiny_folder / "model.safetensors").values())
    assert (fp32_folder / "model.onnx.data").stat().st_size < num_parameters * 4 * 1.1
    # 8 bits for the tied matrix, 4 for the rest, a scale of 4 bytes and a zero point for each block of 32.
    assert (int4_folder / "model.onnx.data").stat().st_size < num_parameters * 1.2


def test_the_folder_holds_a_tokenizer_equal_to_ours(fp32_folder, tiny_folder):
    ours = Tokenizer.from_file(str(tiny_folder / "tokenizer.json"))
    theirs = og.Tokenizer(og.Model(str(fp32_folder)))
    for text in TEXTS:
        token_ids = ours.encode(text).ids
        assert theirs.encode(text).tolist() == token_ids
        assert theirs.decode(np.array(token_ids, dtype=np.int32)) == ours.decode(token_ids)


def test_a_moved_folder_still_answers(fp32_folder, tmp_path, prompts):
    moved = shutil.copytree(fp32_folder, tmp_path / "elsewhere")
    answers, again = (
        OnnxEngine(folder).generate(prompts[:2], max_new_tokens=4, stop_ids=frozenset())
        for folder in (fp32_folder, moved)
    )
    assert answers == again


def test_an_export_leaves_nothing_beside_its_folder(fp32_folder, session_folder):
    assert not [path.name for path in session_folder.iterdir() if path.name.startswith(".")]
    assert {path.name for path in fp32_folder.iterdir()} == {
        "model.onnx",
        "model.onnx.data",
        "genai_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }


@pytest.mark.parametrize("name", ["model.onnx", "genai_config.json", "tokenizer.json"])
@pytest.mark.parametrize("damage", ["missing", "empty"])
def test_an_incomplete_folder_is_refused(fp32_folder, tmp_path, name: str, damage: str):
    folder = shutil.copytree(fp32_folder, tmp_path / "onnx")
    require_onnx_files(folder)
    (folder / name).unlink()
    if damage == "empty":
        (folder / name).touch()
    with pytest.raises(UserError) as caught:
        require_onnx_files(folder)
    assert caught.value.code == "export-failed"
    assert f"{name} is {damage}" in caught.value.details


def test_weights_that_are_not_numbers_are_refused_and_nothing_is_left(tmp_path):
    sick = tiny_llama.write_tiny_llama(tmp_path / "sick", tie_word_embeddings=False)
    weights = load_file(sick / "model.safetensors")
    # Of a token that the check does not ask for: only reading every weight finds it.
    weights["model.embed_tokens.weight"][300, 3] = float("inf")
    save_file(weights, sick / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError) as caught:
        export_onnx(sick, tmp_path / "out" / "onnx", Form("fp32"))
    assert caught.value.code == "export-failed"
    assert any("model.embed_tokens.weight are NaN or infinite" in line for line in caught.value.details)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_folder_without_a_model_or_tokenizer_is_refused(tiny_folder, tmp_path):
    with pytest.raises(UserError) as caught:
        export_onnx(tmp_path / "nowhere", tmp_path / "onnx", Form("fp32"))
    assert caught.value.code == "model-missing"
    bare = shutil.copytree(tiny_folder, tmp_path / "bare")
    (bare / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=r"lacks tokenizer\.json") as caught:
        export_onnx(bare, tmp_path / "onnx", Form("fp32"))
    assert caught.value.code == "model-invalid"


def test_a_result_is_never_written_over(tiny_folder, fp32_folder):
    before = folder_size_bytes(fp32_folder)
    with pytest.raises(UserError, match="exists and is not empty"):
        export_onnx(tiny_folder, fp32_folder, Form("fp32"))
    assert folder_size_bytes(fp32_folder) == before


def test_the_builder_ends_when_its_parent_is_gone(tiny_folder, tmp_path):
    arguments = [str(tiny_folder), str(tmp_path / "onnx"), str(tmp_path / "cache"), "fp32", "cpu"]
    worker = subprocess.Popen([sys.executable, "-P", str(WORKER), *arguments], stdin=subprocess.PIPE)
    assert worker.stdin is not None
    # Closing our end is what the kernel does when this process is killed.
    worker.stdin.close()
    try:
        assert worker.wait(timeout=30) == 1
    finally:
        worker.kill()
        worker.wait()
    assert not (tmp_path / "onnx" / "model.onnx").exists()


def test_decoding_speed_is_the_median_of_repeats(fp32_folder, prompts):
    ticks = iter([0.0, 0.9, 1.0, 1.4, 1.6])
    speed = decode_tokens_per_second(
        OnnxEngine(fp32_folder), prompts[:3], num_tokens=4, repeats=3, clock=lambda: next(ticks)
    )
    assert speed == pytest.approx(3 * 4 / 0.2)


def test_a_slow_model_is_measured_once_and_not_for_an_hour(fp32_folder, prompts):
    ticks = iter([0.0, 40.0])
    speed = decode_tokens_per_second(OnnxEngine(fp32_folder), prompts[:1], num_tokens=4, clock=lambda: next(ticks))
    assert speed == 4 / 40.0
