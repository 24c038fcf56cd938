"""The parity certificate: every form's folder proves by itself what it is, and a changed one does not."""

import gc
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import tiny_llama
from safetensors.torch import load_file, save_file

from kivnun.errors import UserError
from kivnun.generation.agreement import ParityRow, compare_answers
from kivnun.generation.engine import Generation
from kivnun.generation.onnx_engine import OnnxEngine
from kivnun.optimization import stage
from kivnun.optimization.bench import Bench, BuiltForm, broken_bounds
from kivnun.optimization.certificate import OWN_FILES, onnx_folder, read_certificate, read_parity
from kivnun.optimization.golden import Golden, GoldenPrompt, read_golden
from kivnun.optimization.reference import Check, read_reference
from kivnun.optimization.stage import judge_forms, try_threads
from kivnun.recipe.schema import OptimizationSection
from kivnun.runs import hash_file
from kivnun.verification import Asked, FormReport, VerifyReport, find_problems, read_asked, verify

FORMS = {"merged", "onnx-int4", "gguf"}
NAMES = ["tuned", "merged", "fp32 ONNX", "int4 k_quant/32 ONNX", "q8_0 GGUF"]


@pytest.fixture(scope="module")
def certified(tiny_folder, tmp_path_factory, prompts) -> Path:
    """An `optimized/` folder with three forms; never written to by a test."""
    folder = tmp_path_factory.mktemp("certified") / "optimized"
    folder.mkdir()
    golden = Golden(tuple(GoldenPrompt(tuple(ids), "x") for ids in prompts), 6, frozenset({tiny_llama.END}), None)
    stage.optimize(
        stage.TunedFolders(tiny_folder, tiny_folder),
        folder,
        OptimizationSection.model_validate({"precision": "int4", "gguf": "q8_0", "divergence_prompts": 4}),
        golden=golden,
        score=lambda _answers: None,
        log=lambda _event, _fields: None,
    )
    return folder


@pytest.fixture
def merged(certified, tmp_path) -> Path:
    """A copy of one form's folder under another name, as on another machine."""
    return shutil.copytree(certified / "merged", tmp_path / "downloaded")


def change_weight(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.0.mlp.down_proj.weight"][0] *= -1
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def reseal(folder: Path, form: str = "merged", name: str = "model.safetensors") -> None:
    """Make the certificate vouch for the file that lies there now, as a forger would."""
    certificate = json.loads((folder / "parity.json").read_text())
    certificate["files"][form][name] = hash_file(folder / name)
    (folder / "parity.json").write_text(json.dumps(certificate))


def test_every_kept_form_holds_prompts_answers_and_certificate(certified):
    certificate = read_certificate(certified)
    assert set(certificate.files) == FORMS
    assert {path.name for path in certified.iterdir()} == FORMS | set(OWN_FILES)
    assert read_golden(certified / "gguf") == read_golden(certified)
    assert len(read_reference(certified / "gguf").predicted) == 4
    for form, files in certificate.files.items():
        assert read_certificate(certified / form) == replace(certificate, this=form)
        held = {path.name: hash_file(path) for path in (certified / form).iterdir()}
        assert held == {**files, **{name: held[name] for name in OWN_FILES}}
        assert held["golden.json"] == certificate.golden
        assert held["reference.json"] == certificate.reference


def test_every_form_has_a_row_and_what_is_not_kept_says_why(certified):
    rows = {row.name: row for row in read_parity(certified)}
    assert list(rows) == NAMES
    assert {row.folder for row in rows.values()} == {None, *FORMS}
    assert rows["fp32 ONNX"].verdict == "not kept"
    assert rows["fp32 ONNX"].note == "built to prove the export"
    for name in NAMES[:3]:
        assert (rows[name].different, rows[name].token_agreement) == (0, 1.0)
        assert rows[name].divergence < 1e-6
    assert 1e-4 < rows[NAMES[3]].divergence < 5
    assert rows[NAMES[4]].divergence < rows[NAMES[3]].divergence
    assert rows[NAMES[3]].first_token_ms > 0
    assert rows[NAMES[3]].memory_bytes > 10**6
    assert rows[NAMES[4]].tokens_per_second is None
    assert onnx_folder(certified) == certified / "onnx-int4"


def test_the_forms_verify_together_and_each_alone_elsewhere(certified, merged):
    report = verify(str(certified))
    assert [form.verdict for form in report.forms] == ["passed"] * 3
    assert verify(str(merged)).to_json()["verdict"] == "passed"


def test_a_gguf_file_that_only_llama_cpp_computes_is_not_called_verified(certified, tmp_path):
    gguf = shutil.copytree(certified / "gguf", tmp_path / "gguf")
    (gguf / "config.json").write_text(
        json.dumps(json.loads((gguf / "config.json").read_text()) | {"model_type": "gemma"})
    )
    reseal(gguf, "gguf", "config.json")
    with pytest.raises(UserError, match="transformers does not read") as caught:
        verify(str(gguf))
    assert caught.value.code == "stage-unsupported"
    assert "--endpoint" in str(caught.value.hint)


def test_what_was_not_asked_is_no_part_of_what_passed(certified):
    forms = [FormReport(certified, row("merged"), row("merged")), FormReport(certified, row("int4 for cuda"), None)]
    report = VerifyReport(certified, read_certificate(certified), forms)
    assert report.to_json()["verdict"] == "passed; not run here: int4 for cuda"
    report.require_passed()


def test_a_model_leaves_memory_before_another_process_times_it(certified):
    def count() -> int:
        return sum(type(each) is OnnxEngine for each in gc.get_objects())

    held: list[int] = []
    bench = bench_of(certified, lambda event, _fields: held.append(count()) if event == "timing" else None)
    before = count()
    row, _ = bench.measure(BuiltForm("int4", "int4", certified / "onnx-int4"))
    assert held == [before]
    assert row.tokens_per_second > 0


def test_the_chosen_form_says_with_how_many_threads_it_is_fastest(certified):
    said: list[str] = []
    bench = bench_of(certified, lambda event, fields: said.append(fields["note"]) if event == "export_note" else None)
    chosen = row("int4", folder="onnx-int4", tokens_per_second=1e-3, note="the smallest")
    tuned = try_threads(bench, chosen, certified, row("tuned"), choices=(1, 2))
    assert tuned.num_threads in (1, 2)
    assert tuned.tokens_per_second > 1
    assert tuned.note.startswith(f"the smallest; fastest here with threads: {tuned.num_threads} (")
    assert said == [f"int4 is {tuned.note.removeprefix('the smallest; ')}"]
    assert try_threads(bench, chosen, certified, row("tuned"), choices=(1,)) == chosen


def bench_of(folder: Path, log) -> Bench:
    settings = OptimizationSection.model_validate({"precision": "auto"})
    return Bench(read_asked(folder), read_reference(folder), settings, lambda _: None, log)


def test_a_changed_weight_is_found_by_its_hash_and_behind_a_forged_hash_by_the_answers(merged):
    change_weight(merged)
    with pytest.raises(UserError, match="not those that were certified") as caught:
        verify(str(merged))
    assert caught.value.code == "artifact-damaged"
    assert any("model.safetensors: differs" in line for line in caught.value.details)
    reseal(merged)
    report = verify(str(merged))
    assert report.forms[0].verdict == "failed"
    with pytest.raises(UserError, match=r"merged in .* does not answer as certified") as caught:
        report.require_passed()
    assert caught.value.code == "parity-failed"
    assert any("answers differ" in line for line in caught.value.details)


@pytest.mark.parametrize("name", ["golden.json", "reference.json", "tokenizer.json"])
def test_other_prompts_answers_or_words_are_not_what_was_certified(merged, name: str):
    path = merged / name
    path.write_bytes(path.read_bytes() + b"\n")
    with pytest.raises(UserError, match="not those that were certified") as caught:
        verify(str(merged))
    assert caught.value.details == (f"{path}: differs from what was certified",)


def test_a_certificate_that_was_cut_or_is_of_an_earlier_version_is_refused(certified, merged, tmp_path):
    (merged / "parity.json").write_text((certified / "parity.json").read_text()[:-20])
    with pytest.raises(UserError, match="cannot be read as a certificate"):
        verify(str(merged))
    (merged / "parity.json").write_text("[]")
    assert read_parity(merged) == []
    with pytest.raises(UserError, match="earlier version"):
        verify(str(merged))
    fields = json.loads((certified / "merged" / "parity.json").read_text())
    for wrong in ({"shipped": "onnx-int8"}, {"this": "onnx-int8"}):
        (merged / "parity.json").write_text(json.dumps(fields | wrong))
        with pytest.raises(UserError, match="of which it has no files"):
            verify(str(merged))
    (merged / "parity.json").unlink()
    with pytest.raises(UserError, match=r"has no parity\.json") as caught:
        verify(str(merged))
    assert caught.value.code == "run-missing"


def row(name: str, **figures: object) -> ParityRow:
    known = {"num_prompts": 100, "identical": 90, "ties": 2, "different": 8, "score": None, "tokens_per_second": 9.0}
    more = {"token_agreement": 0.98, "divergence": 0.01, "folder": name, "first_token_ms": 1.0, "size_bytes": 10}
    return ParityRow(name=name, precision="int4", **{**known, **more, **figures})  # type: ignore[arg-type]


def test_a_form_beyond_a_bound_is_refused_with_figure_bound_and_first_difference():
    assert broken_bounds(row("a"), 0.9, 0.01) == []
    settings = OptimizationSection.model_validate({"min_agreement": 0.95, "max_divergence": 0.005})
    said = [Generation((5, 6), "length", (1.0, 0.5))], [Generation((5, 7), "length", (1.0, 0.5))]
    check = Check(tuple(said[1]), compare_answers(*said, tie_tolerance=1e-3), 0.5, 0.01)
    bench = Bench(None, None, settings, lambda _: None, lambda _, __: None)  # type: ignore[arg-type]
    with pytest.raises(UserError) as caught:
        bench.require_bounds(BuiltForm("int4", "int4", Path()), row("int4"), check)
    assert caught.value.code == "parity-failed"
    assert "int4: answers 90.0% identically, optimization.min_agreement is 0.95" in caught.value.problem
    assert "divergence 0.01 nats, optimization.max_divergence is 0.005" in caught.value.problem
    assert caught.value.details == ("prompt 0, step 1: token 6 became token 7 (margin 0.5)",)
    bench.require_bounds(BuiltForm("merged", "fp32", Path()), row("merged"), check)


def test_of_several_forms_one_is_kept_and_the_others_say_why():
    rows = [row("good", size_bytes=9), row("large", size_bytes=99), row("far", divergence=0.5, size_bytes=1)]
    settings = OptimizationSection.model_validate({"precision": "auto", "max_divergence": 0.1})
    judged, shipped = judge_forms(rows, settings, row("tuned"), lambda _event, _fields: None)
    assert shipped == "good"
    assert [(each.folder, each.verdict) for each in judged] == [
        ("good", "passed"),
        (None, "not kept"),
        (None, "not kept"),
    ]
    assert "better in everything" in judged[1].note
    assert "max_divergence" in judged[2].note


def test_forms_for_another_machine_are_all_kept_unless_they_are_too_large():
    unseen = {"num_prompts": 0, "verdict": "not run here", "tokens_per_second": None, "divergence": None}
    rows = [row("a", **unseen), row("b", **unseen), row("c", size_bytes=10**6, **unseen)]
    limits = {"precision": "auto", "target": "cuda", "max_size": "500 KB", "min_agreement": 0.9}
    judged, shipped = judge_forms(
        rows, OptimizationSection.model_validate(limits), row("tuned"), lambda _event, _fields: None
    )
    assert shipped in {"a", "b"}
    assert [each.folder for each in judged] == ["a", "b", None]


def test_another_processor_may_round_otherwise_but_not_answer_otherwise(certified):
    asked = Asked(read_asked(certified), read_reference(certified), read_certificate(certified))
    recorded = row("int4")
    assert find_problems(recorded, row("int4", identical=88, different=10, divergence=0.0134), asked) == []
    assert "same or tie: 89.0%" in find_problems(recorded, row("int4", identical=87, different=11), asked)[0]
    assert "divergence 0.02" in find_problems(recorded, row("int4", divergence=0.02), asked)[0]
    assert "token agreement" in find_problems(recorded, row("int4", token_agreement=0.9), asked)[0]
    unseen = row("fp16", verdict="not run here", num_prompts=0)
    assert "never measured" in find_problems(unseen, row("fp16", token_agreement=0.5), asked)[0]
    blind = row("fp16", token_agreement=None, divergence=None)
    assert "cannot be led" in find_problems(unseen, blind, asked)[0]
    bounded = replace(asked.certificate, thresholds=replace(asked.certificate.thresholds, max_divergence=0.1))
    assert "cannot be led" in find_problems(unseen, blind, replace(asked, certificate=bounded))[0]
    assert find_problems(unseen, row("fp16", token_agreement=0.5), replace(asked, certificate=bounded)) == []
