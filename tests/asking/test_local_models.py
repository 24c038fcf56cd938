"""Models of this machine: every kind of folder opens, batches change nothing, likelihoods are those of the model."""

import math
from pathlib import Path

import pytest
import torch

from kivnun.asking.kept import KeptAnswers, ask_all
from kivnun.asking.local import LocalModel
from kivnun.asking.open import hash_folder, open_model, quiet
from kivnun.asking.request import Request
from kivnun.data.encode import Encoder
from kivnun.errors import UserError
from kivnun.models.load import DEFAULT_CHAT_TEMPLATE, load_model, load_tokenizer

TEXTS = ["The quick brown", "שלום עולם, מה", "I am so happy today that I", "She", "The lazy dog"]


def open_local(spec: str | Path, kind: str | None = None) -> LocalModel:
    model = open_model(str(spec), kind=kind)  # type: ignore[arg-type]
    assert isinstance(model, LocalModel)
    return model


def ask(model: LocalModel, *requests: Request) -> list[str]:
    replies = ask_all(model, requests, max_new_tokens=6, kept=KeptAnswers.in_memory(), log=quiet)
    return [reply.text for reply in replies]


def test_answers_in_batches_are_the_answers_one_at_a_time(tiny_model_folder: Path) -> None:
    model = open_local(tiny_model_folder, "text")
    requests = [Request((), text) for text in TEXTS]
    assert ask(model, *requests) == [model.time(request, max_new_tokens=6).text for request in requests]


def test_a_timed_reply_has_its_times_and_tokens(tiny_model_folder: Path) -> None:
    reply = open_local(tiny_model_folder, "text").time(Request((), TEXTS[0]), max_new_tokens=6)
    assert reply.seconds is not None
    assert reply.first_token_seconds is not None
    assert 0 < reply.first_token_seconds <= reply.seconds
    assert reply.completion_tokens <= 6
    assert reply.finished == ("length" if reply.completion_tokens == 6 else "stop")


def test_a_model_with_a_chat_template_chats_and_one_without_continues_text(
    tiny_model_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "chatting"
    folder.mkdir()
    for path in tiny_model_folder.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    template = folder / "chat_template.jinja"
    template.write_text(DEFAULT_CHAT_TEMPLATE)
    assert open_local(folder).kind == "chat"
    assert open_local(f"{folder}#text").kind == "text"
    template.unlink()
    (folder / "tokenizer_config.json").write_text(
        (folder / "tokenizer_config.json").read_text().replace('"chat_template"', '"no_template"')
    )
    assert open_local(folder).kind == "text"


def test_how_a_model_is_asked_is_part_of_its_identity(tiny_model_folder: Path) -> None:
    assert open_local(tiny_model_folder, "text").identity != open_local(tiny_model_folder, "chat").identity


def test_the_same_weights_in_another_folder_have_the_same_identity(tiny_model_folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in tiny_model_folder.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    assert open_local(copy).identity == open_local(tiny_model_folder).identity


@pytest.mark.parametrize("name", ["model.onnx_data", "weights.part1", "nested/adapter.bin"])
def test_weights_of_any_ending_are_part_of_an_exported_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b"weights")
    before = hash_folder(tmp_path)
    (tmp_path / name).write_bytes(b"others!")
    assert hash_folder(tmp_path) != before


def test_a_model_that_continues_text_needs_text(tiny_model_folder: Path) -> None:
    with pytest.raises(UserError, match="messages alone") as refused:
        ask(open_local(tiny_model_folder, "text"), Request((("user", "Hello"),)))
    assert refused.value.code == "stage-unsupported"


def test_a_special_token_in_a_row_is_refused(tiny_model_folder: Path) -> None:
    model = open_local(tiny_model_folder, "chat")
    with pytest.raises(UserError) as refused:
        ask(model, Request((("user", f"ignore {model.assistant.encoder.end}"),)))
    assert refused.value.code == "prompt-invalid"


def test_prompts_without_room_for_an_answer_are_counted_before_any_is_answered(tiny_model_folder: Path) -> None:
    model = open_local(tiny_model_folder, "text")
    kept = KeptAnswers.in_memory()
    requests = [Request((), "short"), Request((), "The lazy dog " * 1000)]
    with pytest.raises(UserError, match="1 of 2 prompts") as refused:
        ask_all(model, requests, max_new_tokens=6, kept=kept, log=quiet)
    assert refused.value.code == "prompt-invalid"
    assert kept.num_replies == 0


@pytest.mark.parametrize("kind", ["text", "chat"])
def test_the_likelihood_of_an_answer_is_the_loss_of_the_model(tiny_model_folder: Path, kind: str) -> None:
    model = open_local(tiny_model_folder, kind)
    request = Request((("user", "I am so"),), "I am so")
    (found,) = model.likelihoods([request], [" happy"])
    assert found is not None
    encoder = Encoder(load_tokenizer(tiny_model_folder))
    end = encoder.end if kind == "text" else "<|im_end|>"
    ids = encoder.encode_prompt(model.prompt_text(request))
    answer = encoder.tokenizer.encode(" happy" + end, add_special_tokens=False)
    plain = load_model(tiny_model_folder, dtype=torch.float32)
    with torch.no_grad():
        logits = plain(input_ids=torch.tensor([ids + answer])).logits[0, len(ids) - 1 : -1]
    loss = torch.nn.functional.cross_entropy(logits, torch.tensor(answer), reduction="sum")
    assert found.num_tokens == len(answer)
    assert found.num_bytes == len(b" happy")
    assert math.isclose(found.nll, float(loss), rel_tol=1e-4)


def test_an_answer_that_does_not_fit_has_no_likelihood(tiny_model_folder: Path) -> None:
    model = open_local(tiny_model_folder, "text")
    assert list(model.likelihoods([Request((), "a")], ["dog " * 1000])) == [None]


@pytest.mark.parametrize(
    ("spec", "code"),
    [
        ("no-such-run", "run-missing"),
        ("/no/such/folder", "model-missing"),
        ("{tiny}#french", "adapter-unknown"),
        ("{tiny}#onnx", "stage-unsupported"),
    ],
)
def test_what_cannot_be_opened_is_refused(tiny_model_folder: Path, spec: str, code: str) -> None:
    with pytest.raises(UserError) as refused:
        open_model(spec.format(tiny=tiny_model_folder))
    assert refused.value.code == code
