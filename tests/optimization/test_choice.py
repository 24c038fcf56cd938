"""Which form is shipped: the Pareto front, the limits, and the rule that picks; what a form costs, measured."""

import json
import subprocess
import sys
from dataclasses import replace
from subprocess import PIPE

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from kivnun.errors import UserError
from kivnun.generation.agreement import ParityRow
from kivnun.generation.onnx_engine import OnnxEngine
from kivnun.optimization.choice import choose, pareto_front, require_file_limits, take_fastest
from kivnun.optimization.measure import WORKER, Speed, first_token_ms, folder_size_bytes, measure_onnx, thread_choices
from kivnun.recipe.optimization import OptimizationSection, relative_score, size_bytes
from kivnun.recipe.schema import Recipe

MIB = 2**20


def row(name: str, *, size: float = 10, score: float | None = 0.9, speed: float = 100, first: float = 10) -> ParityRow:
    return ParityRow(
        name, "int4", int(size * MIB), speed, 40, 38, 1, 1, score, 0.97, 0.01, first_token_ms=first, memory_bytes=MIB
    )


TUNED = row("tuned", size=25, speed=50, first=20)
ROWS = [
    row("fp32", size=25, score=0.90, speed=60),
    row("int8", size=8, score=0.90, speed=150),
    row("int4 k_quant", size=5, score=0.895, speed=200),
    row("int4 rtn", size=5, score=0.85, speed=200),
]


def settings(**limits: object) -> OptimizationSection:
    return OptimizationSection.model_validate({"precision": "auto", **limits})


def test_the_smallest_form_that_is_as_good_is_taken():
    choice = choose(ROWS, settings(), tuned=TUNED)
    assert choice.name == "int4 k_quant"
    assert choice.refused == {}
    assert "the smallest of 3" in choice.reason


@pytest.mark.parametrize(
    ("limits", "chosen"),
    [
        ({"min_score": "1x"}, "int8"),
        ({"min_score": 0.9}, "int8"),
        ({"max_size": "6MiB"}, "int4 k_quant"),
        ({"min_tokens_per_second": 180}, "int4 k_quant"),
        ({"min_score": 0.9, "min_tokens_per_second": 50}, "int8"),
    ],
)
def test_limits_leave_only_what_keeps_them(limits, chosen: str):
    assert choose(ROWS, settings(**limits), tuned=TUNED).name == chosen


def test_a_form_that_breaks_a_limit_says_which_and_by_what():
    choice = choose(ROWS, settings(max_size="6MiB"), tuned=TUNED)
    assert list(choice.refused) == ["fp32", "int8"]
    assert choice.refused["int8"] == f"max_size is {6 * MIB:,}, it has 8.38861e+06".replace("6,291,456", "6.29146e+06")


def test_limits_that_nothing_keeps_are_refused_with_every_form():
    with pytest.raises(UserError) as caught:
        choose(ROWS, settings(max_size="6MiB", min_score=0.9), tuned=TUNED)
    assert caught.value.code == "limits-unmet"
    assert [line.partition(":")[0] for line in caught.value.details] == [each.name for each in ROWS]


def test_what_was_not_measured_keeps_no_limit():
    blind = [replace(each, first_token_ms=None) for each in ROWS]
    with pytest.raises(UserError, match="none of the 4 forms"):
        choose(blind, settings(max_latency_ms=1000), tuned=TUNED)


def test_a_share_of_a_score_that_was_not_measured_is_refused():
    with pytest.raises(UserError, match="was not measured") as caught:
        choose(ROWS, settings(min_score="0.98x"), tuned=replace(TUNED, score=None))
    assert caught.value.code == "limits-unmet"


def test_a_bound_on_agreement_is_for_rounded_forms_and_not_for_a_tie_in_float32():
    exact = replace(ROWS[0], name="fp32", precision="fp32")
    assert choose([exact], settings(min_agreement=1.0), tuned=TUNED).name == "fp32"
    with pytest.raises(UserError, match="none of the 1 forms"):
        choose([ROWS[1]], settings(min_agreement=1.0), tuned=TUNED)


def test_the_fastest_number_of_threads_is_taken_of_those_that_keep_the_limits():
    speeds = [Speed(1, 300.0, 90.0, 1.0, MIB), Speed(2, 250.0, 20.0, 1.0, MIB), Speed(4, 90.0, 10.0, 1.0, MIB)]
    assert take_fastest(ROWS[2], speeds, settings(), tuned=TUNED).num_threads == 1
    chosen = take_fastest(ROWS[2], speeds, settings(max_latency_ms=50), tuned=TUNED)
    assert (chosen.num_threads, chosen.tokens_per_second, chosen.first_token_ms) == (2, 250.0, 20.0)
    assert take_fastest(ROWS[2], speeds[2:], settings(), tuned=TUNED) == ROWS[2]


def test_a_gguf_file_keeps_the_limits_that_do_not_hang_on_what_runs_it():
    file = replace(row("q4_0 GGUF", size=9, score=0.8), tokens_per_second=None, first_token_ms=None, memory_bytes=None)
    require_file_limits(file, settings(max_latency_ms=1, min_tokens_per_second=1e9, max_size="9MiB"), tuned=TUNED)
    for limits, name in (({"max_size": "8MiB"}, "max_size"), ({"min_score": "0.98x"}, "min_score")):
        with pytest.raises(UserError, match=f"q4_0 GGUF: {name} is") as caught:
            require_file_limits(file, settings(**limits), tuned=TUNED)
        assert caught.value.code == "limits-unmet"


def test_what_nothing_was_measured_of_is_not_called_good():
    blind = [replace(each, score=None, token_agreement=None) for each in ROWS]
    assert (
        choose(blind, settings(), tuned=replace(TUNED, score=None)).reason
        == "the smallest of 4, of which none was measured"
    )


def test_a_bound_on_a_score_that_nothing_measures_is_refused_before_anything_is_built():
    plain = {"base_model": "bundled", "data": {"train": "rows.jsonl"}, "optimization": {"min_score": "0.98x"}}
    with pytest.raises(ValidationError, match=r"bounds a score that nothing measures; add an evaluation section"):
        Recipe.model_validate(plain)
    assert Recipe.model_validate({**plain, "evaluation": {"task": "generation"}}).optimization is not None


def test_without_scores_agreement_decides():
    rows = [replace(ROWS[1], score=None, token_agreement=0.99), replace(ROWS[3], score=None, token_agreement=0.80)]
    assert choose(rows, settings(), tuned=replace(TUNED, score=None)).name == "int8"


def test_of_forms_about_as_small_the_nearest_to_the_tuned_model_is_taken():
    near = replace(ROWS[2], name="int4 gptq", size_bytes=ROWS[2].size_bytes + 278, divergence=0.001)
    choice = choose([*ROWS, near], settings(), tuned=TUNED)
    assert choice.name == "int4 gptq"
    assert "of 2 about as small the nearest" in choice.reason
    assert "int4 gptq" in choice.front
    larger = replace(near, size_bytes=int(ROWS[2].size_bytes * 1.06))
    assert choose([*ROWS, larger], settings(), tuned=TUNED).name == "int4 k_quant"


def test_a_score_above_the_tuned_models_own_is_luck():
    rows = [replace(ROWS[1], score=0.95), ROWS[2]]
    assert choose(rows, settings(), tuned=TUNED).name == "int4 k_quant"


def test_the_front_holds_what_nothing_beats():
    assert pareto_front(ROWS) == ("int8", "int4 k_quant")


@given(
    st.lists(
        st.tuples(st.integers(1, 5), st.sampled_from([0.7, 0.8, 0.9]), st.integers(1, 4), st.integers(1, 4)),
        min_size=1,
        max_size=6,
    )
)
def test_every_form_off_the_front_is_beaten_and_the_choice_is_one_of_the_candidates(values):
    rows = [
        row(f"form {number}", size=size, score=score, speed=speed, first=first)
        for number, (size, score, speed, first) in enumerate(values)
    ]
    front = pareto_front(rows)
    assert front
    assert choose(rows, settings(), tuned=TUNED).name in {each.name for each in rows}


@pytest.mark.parametrize(("text", "value"), [("2GiB", 2**31), ("500 MB", 500_000_000), ("1.5KiB", 1536)])
def test_sizes_have_units(text: str, value: int):
    assert size_bytes(text) == value


@pytest.mark.parametrize("text", ["2", "2G", "GiB", "0MiB", "2 gib", "-1MiB", "1e3MB"])
def test_a_size_without_a_known_unit_is_refused(text: str):
    with pytest.raises(ValueError, match=r"^"):
        size_bytes(text)


@pytest.mark.parametrize("text", ["0.98", "1.2x", "0x", "x", "98%"])
def test_a_relative_score_is_a_share_with_an_x(text: str):
    with pytest.raises(ValueError, match=r"^"):
        relative_score(text)


def test_an_onnx_folder_is_measured_in_a_process_of_its_own(int4_folder):
    prompts = [[3, 5, 7], [11, 13]]
    (speed,) = measure_onnx(int4_folder, prompts, threads=(1,))
    assert speed.num_threads == 1
    assert speed.tokens_per_second > 0
    assert 0 < speed.first_token_ms < 1000 * 60
    # The runtime alone takes tens of MiB; torch, which must not be loaded there, would take hundreds.
    assert folder_size_bytes(int4_folder) < speed.memory_bytes < 400 * MIB


def test_a_folder_that_does_not_load_cannot_be_measured(tmp_path):
    with pytest.raises(UserError, match="could not be measured") as caught:
        measure_onnx(tmp_path, [[1]])
    assert caught.value.code == "export-failed"
    assert any("genai_config.json is missing" in line for line in caught.value.details)


def test_measuring_ends_when_its_parent_is_gone(int4_folder, tmp_path):
    request = {"folder": str(int4_folder), "prompts": [[3]] * 10**6, "num_tokens": 4, "num_threads": 1}
    (tmp_path / "request").write_text(json.dumps(request))
    spawn = (
        "import os, subprocess, sys; p = subprocess.Popen([*sys.argv[1:], str(os.getpid())], stdin=open(0));"
        "print(p.pid, flush=True); p.wait()"
    )
    arguments = [sys.executable, "-c", spawn, sys.executable, "-P", str(WORKER)]
    with (tmp_path / "request").open() as given, subprocess.Popen(arguments, stdin=given, stdout=PIPE) as parent:
        assert parent.stdout is not None
        worker = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
    try:
        ended, _ = psutil.wait_procs([worker], timeout=20)
        assert ended or worker.status() == psutil.STATUS_ZOMBIE
    finally:
        if worker.is_running():
            worker.kill()


def test_the_time_to_the_first_token_leaves_the_warm_up_out(int4_folder):
    times = iter([0.0, 9.0, 10.0, 10.5, 20.0, 20.25, 30.0, 30.75])
    assert first_token_ms(OnnxEngine(int4_folder), [[1], [2], [3]], clock=lambda: next(times)) == 500


def test_one_thread_is_always_worth_trying():
    assert thread_choices()[0] == 1
