"""Models come into memory when they are asked for, share their base, and go when room is needed."""

import json
import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from heard import Heard, ask_for
from safetensors.torch import save_file
from tiny_adapters import write_adapter
from tiny_llama import END, write_tiny_llama

from kivnun.data.template import PromptTemplate
from kivnun.errors import UserError
from kivnun.generation.torch_engine import TorchEngine
from kivnun.methods import load_tuned
from kivnun.models.heads import Head
from kivnun.server.errors import to_api_error
from kivnun.serving.answers import BusyError, ModelAddress
from kivnun.serving.exported import engine_of
from kivnun.serving.opening import count_weights
from kivnun.serving.pool import ModelPool, OpenModel

NUM_TOKENS = 9


@pytest.fixture
def pool(logged) -> Iterator[ModelPool]:
    made = ModelPool(memory_bytes=1 << 28, log=lambda event, fields: logged.append((event, dict(fields))))
    yield made
    made.close()


def answer(model: OpenModel, prompt) -> tuple[int, ...]:
    heard = Heard()
    model.ask(ask_for(prompt, NUM_TOKENS), heard)
    return heard.wait().tokens


def answer_alone(base: Path, tuned: Path | None, prompt) -> tuple[int, ...]:
    model = load_tuned(base, tuned or base, dtype=torch.float32)
    [found] = TorchEngine(model, pad_id=END).generate([prompt], max_new_tokens=NUM_TOKENS, stop_ids=frozenset())
    return found.token_ids


def events(logged, name: str) -> list[dict]:
    return [fields for event, fields in logged if event == name]


def test_a_base_is_loaded_once_for_all_of_its_adapters(pool, logged, tiny_folder, two_adapters, prompts):
    addresses = [ModelAddress(str(tiny_folder), tuned) for tuned in (None, *two_adapters.values())]
    assert [pool.loaded(address) for address in addresses] == [None] * 3
    for _ in range(2):
        for address in addresses:
            assert answer(pool.open(address), prompts[3]) == answer_alone(tiny_folder, address.tuned, prompts[3])
    assert pool.loaded(addresses[1]) is pool.open(addresses[1])
    assert len(events(logged, "model_loaded")) == 1
    assert [each["adapter"] for each in events(logged, "adapter_added")] == [
        str(path) for path in two_adapters.values()
    ]
    [facts] = pool.facts().models
    assert (facts.engine, facts.number_format) == ("torch", "float32")
    assert [name for name, _ in facts.adapters] == [str(path) for path in two_adapters.values()]
    assert all(milliseconds > 0 for _, milliseconds in facts.adapters)
    assert pool.facts().model_bytes == facts.num_bytes > 0


def test_those_who_come_at_once_wait_for_one_load(pool, logged, tiny_folder, two_adapters):
    addresses = [ModelAddress(str(tiny_folder), tuned) for tuned in (None, *two_adapters.values())]
    start = threading.Barrier(9)

    def open_one(number: int) -> OpenModel:
        start.wait()
        return pool.open(addresses[number % 3])

    with ThreadPoolExecutor(9) as threads:
        opened = list(threads.map(open_one, range(9)))
    assert len(events(logged, "model_loaded")) == 1
    assert len(events(logged, "adapter_added")) == 2
    assert all(opened[number] is opened[number % 3] for number in range(9))


@pytest.mark.parametrize("settings", [{"use_dora": True}, {"modules_to_save": ["lm_head"]}])
def test_an_adapter_that_is_more_than_lora_gets_a_model_of_its_own(pool, tmp_path, prompts, settings):
    base = write_tiny_llama(tmp_path / "base", tie_word_embeddings=False)
    tuned = write_adapter(base, tmp_path / "tuned", seed=3, **settings)
    pool.open(ModelAddress(str(base)))
    assert answer(pool.open(ModelAddress(str(base), tuned)), prompts[2]) == answer_alone(base, tuned, prompts[2])
    assert answer(pool.open(ModelAddress(str(base))), prompts[2]) == answer_alone(base, None, prompts[2])
    assert [facts.adapters for facts in pool.facts().models] == [(), ()]


def test_a_whole_tuned_model_answers_with_its_own_weights(pool, tiny_folder, tmp_path, prompts):
    tuned = shutil.copytree(tiny_folder, tmp_path / "run" / "model")
    weights = load_tuned(tiny_folder, tiny_folder, dtype=torch.float32)
    with torch.no_grad():
        weights.model.layers[0].mlp.up_proj.weight.mul_(-1)
    weights.save_pretrained(tuned)
    found = answer(pool.open(ModelAddress(str(tiny_folder), tuned)), prompts[2])
    assert found == answer_alone(tiny_folder, tuned, prompts[2]) != answer_alone(tiny_folder, None, prompts[2])


def test_template_tokenizer_and_stop_tokens_are_the_tuned_models_own(pool, tiny_folder, tmp_path):
    run = tmp_path / "run"
    for place in (run / "model", run / "epochs" / "step-000012"):
        write_adapter(tiny_folder, place, seed=len(place.parts))
        PromptTemplate("text", "Q: {question}\nA:", " {answer}").save(place)
    (run / "dataset").mkdir()
    (run / "dataset" / "summary.json").write_text(json.dumps({"stop_ids": [7, 9]}))
    for place in (run / "model", run / "epochs" / "step-000012"):
        model = pool.open(ModelAddress(str(tiny_folder), place))
        assert model.template.prompt_fields == ("question",)
        assert model.stop_ids == {7, 9, END}
    base = pool.open(ModelAddress(str(tiny_folder)))
    assert (base.template.kind, base.stop_ids) == ("document", {END})
    assert base.context_tokens == 96
    assert base.encoder.decode(base.encoder.encode_prompt("street")) == "street"
    # Clients see the name.
    assert base.name == tiny_folder.name


def test_the_bundled_model_chats(pool):
    model = pool.open(ModelAddress("bundled"))
    assert model.template.kind == "chat"
    assert model.encoder.end_id in model.stop_ids


def test_what_cannot_be_opened_is_refused_each_time_and_keeps_nothing(pool, tiny_folder, tmp_path, prompts):
    headed = write_adapter(tiny_folder, tmp_path / "headed", seed=1)
    Head("classification", 0, ("a", "b")).save(headed)
    other = write_adapter(write_tiny_llama(tmp_path / "other", num_attention_heads=4), tmp_path / "foreign", seed=1)
    cut = shutil.copytree(tiny_folder, tmp_path / "cut")
    (cut / "model.safetensors").write_bytes(b"\x40\x1f")
    refused = {
        "model-missing": [ModelAddress(str(tmp_path / "none")), ModelAddress(str(tiny_folder), tmp_path / "none")],
        "stage-unsupported": [ModelAddress(str(tiny_folder), headed)],
        "adapter-invalid": [ModelAddress(str(tiny_folder), other)],
        "model-invalid": [ModelAddress(str(cut)), ModelAddress(str(tiny_folder), engine="onnx")],
    }
    for code, addresses in refused.items():
        for address in [*addresses, *addresses]:
            with pytest.raises(UserError) as caught:
                pool.open(address)
            assert caught.value.code == code
            assert pool.loaded(address) is None
            if address.tuned is not None and code != "adapter-invalid":
                assert str(tmp_path) not in str(caught.value)
    assert answer(pool.open(ModelAddress(str(tiny_folder))), prompts[0]) == answer_alone(tiny_folder, None, prompts[0])


@pytest.fixture
def folders(tiny_folder: Path, tmp_path: Path) -> list[Path]:
    return [tiny_folder, *[shutil.copytree(tiny_folder, tmp_path / name) for name in ("second", "third")]]


def test_what_nobody_used_for_longest_goes_when_room_is_needed(logged, folders, two_adapters, prompts):
    size = count_weights(folders[0]) * 4
    pool = ModelPool(memory_bytes=int(3.5 * size), log=lambda event, fields: logged.append((event, dict(fields))))
    first, second, third = (ModelAddress(str(folder)) for folder in folders)
    pool.open(first)
    old = pool.open(second)
    pool.open(first)
    pool.open(third)
    assert [pool.loaded(each) is not None for each in (first, second, third)] == [True, False, True]
    assert [each["model"] for each in events(logged, "model_evicted")] == ["second"]
    assert pool.facts().model_bytes <= 3.5 * size
    # Who still holds it is told to come again, and finds it loaded anew.
    with pytest.raises(BusyError):
        old.ask(ask_for(prompts[0]), Heard())
    assert answer(pool.open(second), prompts[0]) == answer_alone(folders[1], None, prompts[0])
    pool.close()


def test_adapters_go_before_their_base_and_come_back(logged, tiny_folder, two_adapters, prompts):
    size = count_weights(tiny_folder) * 4
    adapter_bytes = 2 * (two_adapters["one"] / "adapter_model.safetensors").stat().st_size
    limit = int((size + 1.5 * adapter_bytes) / 0.8)
    pool = ModelPool(memory_bytes=limit, log=lambda event, fields: logged.append((event, dict(fields))))
    one, two = (ModelAddress(str(tiny_folder), folder) for folder in two_adapters.values())
    for address in (one, two, one):
        assert answer(pool.open(address), prompts[1]) == answer_alone(tiny_folder, address.tuned, prompts[1])
    assert [each["adapter"] for each in events(logged, "model_evicted")] == [str(one.tuned), str(two.tuned)]
    assert len(events(logged, "model_loaded")) == 1
    pool.close()


def test_many_who_want_more_models_than_fit_are_all_answered_in_the_end(folders, two_adapters, prompts):
    size = count_weights(folders[0]) * 4
    pool = ModelPool(memory_bytes=int(3.2 * size))
    addresses = [*[ModelAddress(str(each)) for each in folders], ModelAddress(str(folders[0]), two_adapters["one"])]
    wanted = [answer_alone(Path(each.base), each.tuned, prompts[1]) for each in addresses]

    def insist(number: int) -> None:
        for _ in range(400):
            try:
                found = answer(pool.open(addresses[number % 4]), prompts[1])
            except BusyError:
                time.sleep(0.01)
            else:
                assert found == wanted[number % 4]
                return
        raise AssertionError("never answered")

    with ThreadPoolExecutor(6) as threads:
        list(threads.map(insist, range(40)))
    assert pool.facts().running == 0
    pool.close()


def test_a_model_that_answers_stays_and_one_that_can_never_fit_is_refused(folders, prompts):
    size = count_weights(folders[0]) * 4
    pool = ModelPool(memory_bytes=int(1.8 * size))
    heard = Heard()
    running = pool.open(ModelAddress(str(folders[0]))).ask(ask_for(prompts[0], 90), heard)
    heard.wait_for(1)
    if heard.end is None:
        with pytest.raises(BusyError):
            pool.open(ModelAddress(str(folders[1])))
    running.cancel()
    heard.wait()
    assert pool.open(ModelAddress(str(folders[1]))).context_tokens == 96
    pool.close()
    pool = ModelPool(memory_bytes=size // 2)
    with pytest.raises(UserError) as caught:
        pool.open(ModelAddress(str(folders[0])))
    assert caught.value.code == "model-too-large"
    pool.close()


def test_an_exported_model_answers_as_the_one_it_was_made_of(pool, fp32_folder, tiny_folder, two_adapters, prompts):
    model = pool.open(ModelAddress(str(fp32_folder), engine=engine_of(str(fp32_folder))))
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda prompt: answer(model, prompt), prompts))
    assert found == [answer_alone(tiny_folder, None, prompt) for prompt in prompts]
    assert answer(model, prompts[3]) == found[3]
    assert pool.facts().models[0].engine == "onnx"
    with pytest.raises(UserError) as caught:
        pool.open(ModelAddress(str(fp32_folder), two_adapters["one"], "onnx"))
    refused = to_api_error(caught.value)
    assert (refused.status, refused.code) == (400, "stage-unsupported")
    assert "serve the tuned model on the base that it was trained on" in refused.message
    assert str(fp32_folder) not in refused.message


def test_an_exported_folder_is_for_onnx_and_everything_else_for_torch(tiny_folder, tmp_path):
    (tmp_path / "genai_config.json").write_text("{}")
    assert engine_of(str(tmp_path)) == "onnx"
    assert [engine_of(base) for base in (str(tiny_folder), "bundled", "org/name")] == ["torch"] * 3


def test_weights_are_counted_by_their_headers(tmp_path):
    save_file({"a": torch.zeros(3, 5), "b": torch.zeros(7, dtype=torch.bfloat16)}, tmp_path / "x.safetensors")
    save_file({"c": torch.zeros(())}, tmp_path / "y.safetensors")
    assert count_weights(tmp_path) == 15 + 7 + 1
