"""What takes the place of a finished model is named, and the model before is kept."""

from pathlib import Path

from kivnun.runs import stage_key, write_stage
from kivnun.runs.replaced import changed_inputs, keep_copy


def make(run_dir: Path, text: str, inputs: dict[str, object]) -> Path:
    with write_stage(run_dir, "model", kind="model", key=stage_key(inputs), inputs=inputs) as folder:
        (folder / "weights").write_text(text, "utf-8")
    return run_dir / "model"


def test_what_differs_is_named_by_its_field(tmp_path: Path) -> None:
    folder = make(tmp_path, "old", {"method": {"kind": "full"}, "training": {"seed": 0, "epochs": 3.0}})
    new = {"method": {"kind": "lora", "rank": 4}, "training": {"seed": 0, "epochs": 3.0}}
    assert changed_inputs(folder, new) == ["method.kind", "method.rank"]


def test_the_model_before_is_kept_whole_when_another_takes_its_place(tmp_path: Path) -> None:
    folder = make(tmp_path, "old", {"a": 1})
    keep_copy(folder, tmp_path / "earlier" / "model")
    make(tmp_path, "new", {"a": 2})
    assert (tmp_path / "model" / "weights").read_text("utf-8") == "new"
    assert (tmp_path / "earlier" / "model" / "weights").read_text("utf-8") == "old"
    keep_copy(folder, tmp_path / "earlier" / "model")
    assert (tmp_path / "earlier" / "model" / "weights").read_text("utf-8") == "new"
