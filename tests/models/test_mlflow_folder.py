"""Models in MLflow's format: a tiny real one, laid out as MLflow and Azure lay them, opens as the plain one does."""

import shutil
from pathlib import Path

import pytest
import torch

from kivnun.errors import UserError
from kivnun.models.load import load_model, load_tokenizer
from kivnun.models.resolve import resolve_model
from kivnun.models.tokenizer import open_tokenizer

TOKENIZER_NAMES = {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"}
TEXT = "Hello! שלום"


def lay_out(plain: Path, folder: Path, model: str, tokenizer: str) -> Path:
    """A model's folder as MLflow keeps it."""
    for name in (model, tokenizer):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for path in plain.iterdir():
        shutil.copyfile(path, folder / (tokenizer if path.name in TOKENIZER_NAMES else model) / path.name)
    (folder / "MLmodel").write_text("flavors:\n  transformers:\n    model_binary: model\n", "utf-8")
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/kivnun/mlflow"


@pytest.mark.parametrize(
    ("model", "tokenizer"), [("model", "components/tokenizer"), ("data/model", "data/tokenizer"), ("model", "model")]
)
@pytest.mark.parametrize("around", ["", "mlflow_model_folder"])
def test_a_model_in_mlflows_format_opens_as_the_plain_one(
    model: str, tokenizer: str, around: str, tiny_model_folder: Path, tmp_path: Path
) -> None:
    lay_out(tiny_model_folder, tmp_path / "named" / around, model, tokenizer)
    plain, found = resolve_model(str(tiny_model_folder)), resolve_model(str(tmp_path / "named"))
    assert (found.name, found.content_hash) == (str(tmp_path / "named"), plain.content_hash)
    assert load_tokenizer(found.folder)(TEXT).input_ids == load_tokenizer(plain.folder)(TEXT).input_ids
    assert open_tokenizer(str(tmp_path / "named")).tokenizer.get_vocab() == load_tokenizer(plain.folder).get_vocab()
    before, after = (load_model(each.folder, dtype=torch.float32).state_dict() for each in (plain, found))
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_one_folder_of_links_is_kept_until_a_file_changes(tiny_model_folder: Path, tmp_path: Path, cache: Path) -> None:
    folder = lay_out(tiny_model_folder, tmp_path / "azure", "data/model", "data/tokenizer")
    first = resolve_model(str(folder))
    assert resolve_model(str(folder)) == first
    assert [path.name for path in cache.iterdir()] == [first.folder.name]
    config = folder / "data/model/config.json"
    config.write_text(config.read_text("utf-8") + "\n", "utf-8")
    assert resolve_model(str(folder)).content_hash != first.content_hash


def test_a_cache_that_cannot_be_written_says_what_else_to_do(
    tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    folder = lay_out(tiny_model_folder, tmp_path / "azure", "model", "components/tokenizer")
    with pytest.raises(UserError) as caught:
        resolve_model(str(folder))
    assert caught.value.code == "file-unwritable"
    assert "XDG_CACHE_HOME" in caught.value.hint


def test_pickled_weights_inside_are_refused_with_their_folder(tiny_model_folder: Path, tmp_path: Path) -> None:
    folder = lay_out(tiny_model_folder, tmp_path / "azure", "data/model", "data/tokenizer")
    (folder / "data/model/model.safetensors").rename(folder / "data/model/pytorch_model.bin")
    with pytest.raises(UserError) as caught:
        resolve_model(str(folder))
    assert caught.value.code == "model-invalid"
    assert str(folder / "data/model") in caught.value.problem
    assert "pickled" in caught.value.problem
