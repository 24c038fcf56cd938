"""Checkpoints that several processes write: whole or absent, and gone on from by any number of processes."""

import itertools
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from several_processes import NUM_STEPS, Case, Given, Left, train_case, train_together

from kivnun.data.tokens import TokenTable
from kivnun.runs import verify_artifact
from kivnun.training.checkpoint import find_checkpoints
from kivnun.training.state_files import open_state, write_state

METHODS = ("full", "lora")
KINDS = ("ddp", "fsdp")


def name_of(kind: str, method: str, what: str) -> str:
    return f"{kind}-{method}-{what}"


@pytest.fixture(scope="module")
def given(
    tiny_model_folder: Path,
    tiny_table: TokenTable,
    tiny_validation_table: TokenTable,
    tmp_path_factory: pytest.TempPathFactory,
) -> Given:
    return Given(tiny_model_folder, tiny_table, tiny_validation_table, tmp_path_factory.mktemp("checkpoints"))


@pytest.fixture(scope="module")
def alone(given: Given) -> dict[str, Left]:
    """What one process learns undisturbed; beside it, runs that it was killed in."""
    for method in METHODS:
        assert train_case(Case(method, f"alone-{method}-cut", stop="cut"), given).ended == "PowerCutError"
    return {method: train_case(Case(method, f"alone-{method}"), given) for method in METHODS}


@pytest.fixture(scope="module")
def left(given: Given, alone: dict[str, Left]) -> dict[str, Left]:
    """What two processes leave: undisturbed, cut, gone on, and gone on from what one process or the other kind left."""
    del alone
    cases: dict[str, tuple[str, Case]] = {}
    for kind in KINDS:
        other = "ddp" if kind == "fsdp" else "fsdp"
        for method in METHODS:
            straight = name_of(kind, method, "straight")
            cases[straight] = (kind, Case(method, straight))
            cut = name_of(kind, method, "cut")
            cases[cut] = (kind, Case(method, cut, stop="cut"))
            cases[f"{cut}-kept"] = (kind, Case(method, f"{cut}-kept", stop="cut"))
            cases[f"{cut}-other"] = (other, Case(method, f"{cut}-other", stop="cut"))
            shutil.copytree(given.runs / f"alone-{method}-cut", given.runs / f"{cut}-alone")
    resumed = {
        name_of(kind, method, f"resumed{source}"): (kind, Case(method, name_of(kind, method, f"cut{source}")))
        for kind in KINDS
        for method in METHODS
        for source in ("", "-other", "-alone")
    }
    return train_together({**cases, **resumed}, given)


def require_resumed(resumed: Left) -> None:
    assert ("resumed", 1) in resumed.events
    assert [step for event, step in resumed.events if event == "step"] == list(range(2, NUM_STEPS + 1))


def require_close(one: Left, other: Left) -> None:
    assert one.losses[-1] == pytest.approx(other.losses[-1], rel=1e-5)
    assert one.tensors.keys() == other.tensors.keys()
    for key, value in other.tensors.items():
        torch.testing.assert_close(one.tensors[key], value, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", KINDS)
def test_as_many_processes_go_on_bit_for_bit(kind: str, method: str, left: dict[str, Left]):
    straight, resumed = left[name_of(kind, method, "straight")], left[name_of(kind, method, "resumed")]
    assert left[name_of(kind, method, "cut")].ended == "PowerCutError"
    require_resumed(resumed)
    assert resumed.losses == straight.losses[1:]
    assert [key for key in straight.tensors if not torch.equal(straight.tensors[key], resumed.tensors[key])] == []


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("source", ["other", "alone"])
def test_two_processes_go_on_from_what_one_or_the_other_kind_left(
    kind: str, method: str, source: str, left: dict[str, Left], alone: dict[str, Left]
):
    resumed = left[name_of(kind, method, f"resumed-{source}")]
    require_resumed(resumed)
    require_close(resumed, alone[method])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", KINDS)
def test_one_process_goes_on_from_what_two_left(
    kind: str, method: str, left: dict[str, Left], alone: dict[str, Left], given: Given
):
    del left
    resumed = train_case(Case(method, name_of(kind, method, "cut-kept")), given)
    require_resumed(resumed)
    require_close(resumed, alone[method])


def test_each_process_of_fsdp_writes_its_rows_and_every_file_is_hashed(left: dict[str, Left], given: Given):
    del left
    folder = given.runs / name_of("fsdp", "full", "straight") / "checkpoints" / f"step-{NUM_STEPS:06d}"
    shards = [folder / f"state-0000{number}-of-00002.safetensors" for number in (1, 2)]
    assert set(verify_artifact(folder).files) == {"progress.json", *(path.name for path in shards)}
    sizes = [path.stat().st_size for path in shards]
    assert sizes[1] > 0.8 * sizes[0]
    name = "master.model.embed_tokens.weight"
    rows = [load_file(path)[name] for path in shards]
    with open_state(folder) as tensors:
        assert tensors[name].shape == (sum(map(len, rows)), 32)
        assert torch.equal(tensors[name][...], torch.cat(rows))


def test_only_the_latest_and_the_best_checkpoints_of_several_processes_are_kept(left: dict[str, Left], given: Given):
    run_dir = given.runs / name_of("fsdp", "lora", "straight")
    kept = find_checkpoints(run_dir, "key")
    progress = json.loads((kept[-1] / "progress.json").read_text("utf-8"))
    expected = {NUM_STEPS - 1, NUM_STEPS, progress["best_step"]}
    assert {int(path.name.removeprefix("step-")) for path in kept} == expected
    assert left[name_of("fsdp", "lora", "straight")].events[-1][0] in {"checkpoint", "validation"}
    assert [path.name for path in (run_dir / "checkpoints").iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("harm", ["cut", "missing", "foreign"])
def test_a_damaged_shard_is_named_and_an_older_checkpoint_leads_to_the_same_weights(
    harm: str, left: dict[str, Left], alone: dict[str, Left], given: Given
):
    del left
    run_dir = f"damaged-{harm}"
    shutil.copytree(given.runs / name_of("fsdp", "full", "straight"), given.runs / run_dir)
    shard = given.runs / run_dir / "checkpoints" / f"step-{NUM_STEPS:06d}" / "state-00002-of-00002.safetensors"
    if harm == "cut":
        shard.write_bytes(shard.read_bytes()[:-1])
    elif harm == "missing":
        shard.unlink()
    else:
        save_file({"master.other": torch.zeros(2)}, shard)
    resumed = train_case(Case("full", run_dir), given)
    assert next(event for event, _ in resumed.events) == "checkpoint_damaged"
    require_close(resumed, alone["full"])


def cut_by_hand(folder: Path, whole: torch.Tensor, cuts: list[int]) -> None:
    """Files as several processes write them."""
    for rank, (start, stop) in enumerate(itertools.pairwise(cuts)):
        layout = {"weight": {"start": start, "shape": list(whole.shape)}}
        path = folder / f"state-{rank + 1:05d}-of-{len(cuts) - 1:05d}.safetensors"
        save_file({"weight": whole[start:stop].contiguous()}, path, {"layout": json.dumps(layout)})


@pytest.mark.parametrize("cuts", [[0, 7], [0, 3, 7], [0, 1, 2, 6, 7]])
def test_any_rows_are_read_from_files_cut_anywhere(tmp_path: Path, cuts: list[int]):
    whole = torch.randn(7, 3)
    cut_by_hand(tmp_path, whole, cuts)
    with open_state(tmp_path) as tensors:
        stored = tensors["weight"]
        assert stored.shape == (7, 3)
        for start in range(8):
            for stop in range(start, 8):
                assert torch.equal(stored[start:stop], whole[start:stop])
        assert torch.equal(stored[...], whole)


def test_rows_that_no_file_has_are_an_error(tmp_path: Path):
    cut_by_hand(tmp_path, torch.randn(7, 3), [0, 3, 7])
    (tmp_path / "state-00001-of-00002.safetensors").unlink()
    with open_state(tmp_path) as tensors, pytest.raises(KeyError, match="rows 0 to 7 are in no file"):
        tensors["weight"][...]


def test_whole_tensors_are_the_first_process_s_to_write(tmp_path: Path):
    tensors = {"weight": torch.randn(4, 2), "step": torch.tensor(3.0)}
    write_state(tmp_path, tensors, rank=1, world_size=2)
    assert list(tmp_path.iterdir()) == []
    write_state(tmp_path, tensors, rank=0, world_size=2)
    with open_state(tmp_path) as stored:
        assert {name: stored[name][...].tolist() for name in stored} == {
            name: value.tolist() for name, value in tensors.items()
        }
