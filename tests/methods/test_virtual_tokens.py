"""Prefix and prompt tuning: PEFT's numbers for each document, in packed rows, padded batches and with a cache."""

import copy
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from torch.nn import functional as F  # noqa: N812 - the name of the field
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, MistralConfig, PreTrainedConfig

from kivnun.data.packing import pack
from kivnun.data.tokens import TokenizedRow, TokenTable, make_table
from kivnun.errors import UserError
from kivnun.generation.sampling import Sampling
from kivnun.generation.torch_engine import TorchEngine
from kivnun.inputs import fit_context
from kivnun.methods import BaseModelName, load_tuned, make_method, merge, require_mergeable, trainable_names
from kivnun.models.attention import (
    group_documents,
    packed_hidden_states,
    use_packed_attention,
    use_standard_attention,
)
from kivnun.models.late_imports import load_peft
from kivnun.models.load import load_model, load_tokenizer
from kivnun.models.resolve import resolve_model
from kivnun.models.types import Model
from kivnun.models.virtual_tokens import virtual_tokens_of
from kivnun.recipe.methods import LoraMethod, PrefixMethod, PromptMethod
from kivnun.recipe.schema import DataSection, Recipe
from kivnun.recipe.training import TrainingSection
from kivnun.training.loop import fit, make_plan
from kivnun.training.objectives.supervised import Supervised
from kivnun.training.optimizer import make_master_weights

pytestmark = [
    # What PEFT says of itself and of transformers while it loads and generates.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Position ids are not supported:UserWarning"),
]

COUNT = 3
METHODS = {"prefix": PrefixMethod(num_virtual_tokens=COUNT), "prompt": PromptMethod(num_virtual_tokens=COUNT)}
both = pytest.mark.parametrize("kind", METHODS)
SHAPE = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": None,
}
ARCHITECTURES: dict[str, PreTrainedConfig] = {
    "llama": LlamaConfig(**SHAPE),
    "mistral with a window": MistralConfig(**SHAPE, sliding_window=6),
    "gpt2": GPT2Config(
        vocab_size=97, n_positions=64, n_embd=32, n_layer=2, n_head=4, initializer_range=0.3, bos_token_id=1
    ),
}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def wild(config: PreTrainedConfig, folder: Path) -> Path:
    """A model whose weights are large, so that attention matters and answers wander."""
    torch.manual_seed(3)
    AutoModelForCausalLM.from_config(copy.deepcopy(config)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def wild_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return wild(ARCHITECTURES["llama"], tmp_path_factory.mktemp("wild"))


def tuned(folder: Path, kind: str, out: Path, *, dtype: torch.dtype = torch.float32) -> Model:
    """A model with virtual tokens of some size, as after a training, and its folder in `out`."""
    model = load_model(folder, dtype=dtype)
    method = make_method(METHODS[kind])
    method.prepare(model, generator=seeded(1))
    with torch.no_grad():
        virtual_tokens_of(model).weight.normal_(0, 1, generator=seeded(2))
    out.mkdir()
    method.export(model, out, base_model=BaseModelName("wild", folder))
    return model


def peft_model(folder: Path, out: Path) -> torch.nn.Module:
    return load_peft().PeftModel.from_pretrained(load_model(folder, dtype=torch.float32), str(out)).eval()


def documents(*lengths: int) -> list[torch.Tensor]:
    generator = seeded(4)
    return [torch.randint(3, 97, (length,), generator=generator) for length in lengths]


@torch.no_grad()
def peft_logits(theirs: torch.nn.Module, ids: torch.Tensor) -> torch.Tensor:
    """Of the document's own tokens."""
    return theirs(input_ids=ids.unsqueeze(0)).logits[0, -len(ids) :]


@torch.no_grad()
def packed_logits(model: Model, parts: list[torch.Tensor]) -> list[torch.Tensor]:
    lengths = [len(ids) for ids in parts]
    positions = torch.cat([torch.arange(length) for length in lengths])
    hidden = packed_hidden_states(model, torch.cat(parts), positions, group_documents(lengths))
    return list((hidden @ model.get_output_embeddings().weight.T).split(lengths))


@both
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_packed_document_alone_and_reloaded_has_the_logits_of_peft(tmp_path: Path, name: str, kind: str):
    folder = wild(ARCHITECTURES[name], tmp_path / "base")
    model = tuned(folder, kind, tmp_path / "out")
    theirs = peft_model(folder, tmp_path / "out")
    again = load_tuned(folder, tmp_path / "out", dtype=torch.float32)
    parts = documents(1, 2, 2, 5, 11, 17, 20)
    expected = [peft_logits(theirs, ids) for ids in parts]
    base = load_model(folder, dtype=torch.float32)
    assert (base(input_ids=parts[-1].unsqueeze(0)).logits[0] - expected[-1]).norm() > 0.1 * expected[-1].norm()
    for ids, wanted in zip(parts, expected, strict=True):
        for each in (model, again):
            with torch.no_grad():
                torch.testing.assert_close(each(input_ids=ids.unsqueeze(0)).logits[0], wanted, atol=1e-4, rtol=1e-4)
    use_packed_attention(model)
    for ours, wanted in zip(packed_logits(model, parts), expected, strict=True):
        torch.testing.assert_close(ours, wanted, atol=1e-4, rtol=1e-4)
    use_standard_attention(model)


@both
def test_the_loss_and_its_gradient_are_those_of_peft_document_by_document(wild_folder: Path, tmp_path: Path, kind: str):
    model = tuned(wild_folder, kind, tmp_path / "out")
    theirs = peft_model(wild_folder, tmp_path / "out")
    weight = theirs.prompt_encoder["default"].embedding.weight.requires_grad_()
    parts = documents(4, 9, 10, 23)
    table = make_table([TokenizedRow(ids.tolist(), [place > 2 for place in range(len(ids))]) for ids in parts])
    use_packed_attention(model)
    batch = pack(table, list(range(len(parts))))
    ours = Supervised().loss(model, batch, None).total
    ours.backward()
    expected = torch.zeros(())
    for ids in parts:
        logits = theirs(input_ids=ids.unsqueeze(0)).logits[0, -len(ids) :]
        expected = expected + F.cross_entropy(logits[2:-1], ids[3:], reduction="sum")
    expected.backward()
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(virtual_tokens_of(model).weight.grad, weight.grad, rtol=1e-3, atol=1e-4)


@both
def test_documents_of_a_row_never_see_each_other(wild_folder: Path, tmp_path: Path, kind: str):
    model = tuned(wild_folder, kind, tmp_path / "out")
    use_packed_attention(model)
    parts = documents(6, 6, 7)
    before = packed_logits(model, parts)
    parts[1] = (parts[1] + 1) % 97
    after = packed_logits(model, parts)
    assert [torch.equal(one, other) for one, other in zip(before, after, strict=True)] == [True, False, True]


@both
def test_answers_are_those_of_peft_and_of_one_prompt_at_a_time(wild_folder: Path, tmp_path: Path, kind: str):
    model = tuned(wild_folder, kind, tmp_path / "out").eval()
    theirs = peft_model(wild_folder, tmp_path / "out")
    prompts = [ids.tolist() for ids in documents(1, 4, 4, 9, 2, 15)]
    engine = TorchEngine(model, pad_id=0, batch_size=4)
    together = engine.generate(prompts, max_new_tokens=12, stop_ids=frozenset({5}))
    for prompt, answer in zip(prompts, together, strict=True):
        alone = engine.generate([prompt], max_new_tokens=12, stop_ids=frozenset({5}))[0]
        assert alone.token_ids == answer.token_ids
        ids = torch.tensor([prompt])
        generated = theirs.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=12,
            do_sample=False,
            eos_token_id=5,
            pad_token_id=5,
        )[0].tolist()
        # With a prompt PEFT's own answer comes without the prompt where it was given as embeddings.
        wanted = generated[len(prompt) :] if generated[: len(prompt)] == prompt else generated
        wanted = wanted[: wanted.index(5)] if 5 in wanted else wanted
        assert list(answer.token_ids) == wanted
    greedy = Sampling(temperature=0)
    streamed = engine.stream(prompts[3], max_new_tokens=12, stop_ids=frozenset({5}), sampling=greedy)
    assert tuple(streamed) == together[3].token_ids
    assert len({answer.token_ids for answer in together}) > 1


@both
def test_the_context_is_shorter_by_the_virtual_tokens(wild_folder: Path, tmp_path: Path, kind: str):
    engine = TorchEngine(tuned(wild_folder, kind, tmp_path / "out").eval(), pad_id=0)
    room = 64 - COUNT
    answer = engine.generate([[7] * (room - 2)], max_new_tokens=30, stop_ids=frozenset())[0]
    assert (len(answer.token_ids), answer.finished) == (2, "length")
    with pytest.raises(UserError, match="cannot be answered") as caught:
        engine.generate([[7] * room], max_new_tokens=1, stop_ids=frozenset())
    assert caught.value.details == (f"prompt 0 has {room} tokens; prompt and answer may have {room} together",)


def test_rows_are_cut_to_what_is_left_of_the_context(tiny_model_folder: Path):
    base, data = resolve_model(str(tiny_model_folder)), DataSection(train="rows.jsonl", max_seq_len=100_000)
    assert fit_context(data, base, LoraMethod())[1] == 1024
    for method in METHODS.values():
        limited, limit = fit_context(data, base, method)
        assert limited.max_seq_len == limit == 1024 - COUNT
    with pytest.raises(UserError, match="num_virtual_tokens: 1024 leaves no room") as caught:
        fit_context(data, base, PrefixMethod(num_virtual_tokens=1024))
    assert caught.value.code == "recipe-invalid"


@both
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_exactly_the_virtual_tokens_are_trained(
    tiny_model_folder: Path, tiny_table: TokenTable, kind: str, dtype: torch.dtype
):
    model = load_model(tiny_model_folder, dtype=dtype)
    make_method(METHODS[kind]).prepare(model, generator=seeded())
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    assert trainable_names(model) == ["virtual_tokens.weight"]
    settings = TrainingSection(max_steps=2, batch_tokens=100, learning_rate=0.01, precision="fp32")
    use_packed_attention(model)
    weights = make_master_weights(model, settings)
    list(fit(model, weights, tiny_table, settings, plan=make_plan(tiny_table.lengths(), settings)))
    changed = [name for name, value in model.named_parameters() if not torch.equal(value, before[name])]
    assert changed == ["virtual_tokens.weight"]
    assert bool((model.virtual_tokens.weight != before["virtual_tokens.weight"]).any(1).all())


@both
def test_the_seed_covers_the_start(tiny_model_folder: Path, kind: str):
    state, made = torch.get_rng_state(), []
    for seed in (5, 5, 6):
        model = load_model(tiny_model_folder, dtype=torch.float32)
        make_method(METHODS[kind]).prepare(model, generator=seeded(seed))
        made.append(virtual_tokens_of(model).weight.detach())
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[0], made[2])


def test_prompts_start_as_words_or_as_the_text(tiny_model_folder: Path, tiny_model: Model):
    words = tiny_model.get_input_embeddings().weight.detach().clone()
    text = "I am so"
    ids = load_tokenizer(tiny_model_folder)(text)["input_ids"]
    count = 2 * len(ids) + 1
    make_method(PromptMethod(num_virtual_tokens=count, init_text=text)).prepare(tiny_model, generator=seeded())
    expected = words[torch.tensor([*ids, *ids, ids[0]])]
    assert torch.equal(virtual_tokens_of(tiny_model).weight, expected)

    other = load_model(tiny_model_folder, dtype=torch.float32)
    make_method(PromptMethod(num_virtual_tokens=4)).prepare(other, generator=seeded())
    for row in virtual_tokens_of(other).weight:
        assert bool((words == row).all(1).any())

    with pytest.raises(UserError, match=f"has {len(ids)} tokens, and method.num_virtual_tokens is 1") as caught:
        make_method(PromptMethod(num_virtual_tokens=1, init_text=text)).prepare(tiny_model, generator=seeded())
    assert caught.value.code == "recipe-invalid"


@both
def test_a_copy_has_tokens_of_its_own(wild_folder: Path, tmp_path: Path, kind: str):
    model = tuned(wild_folder, kind, tmp_path / "out").eval()
    twin = copy.deepcopy(model)
    ids = torch.arange(3, 10).unsqueeze(0)
    with torch.no_grad():
        before = model(input_ids=ids).logits
        assert torch.equal(twin(input_ids=ids).logits, before)
        virtual_tokens_of(twin).weight.mul_(2)
        assert torch.equal(model(input_ids=ids).logits, before)
        assert not torch.equal(twin(input_ids=ids).logits, before)


@both
def test_virtual_tokens_are_not_merged(wild_folder: Path, tmp_path: Path, kind: str):
    with pytest.raises(UserError, match="cannot be merged") as caught:
        merge(tuned(wild_folder, kind, tmp_path / "out"))
    assert caught.value.code == "stage-unsupported"
    with pytest.raises(UserError, match="optimization") as caught:
        require_mergeable(METHODS[kind])
    assert caught.value.code == "stage-unsupported"


def shorten(folder: Path) -> None:
    path = folder / "adapter_model.safetensors"
    save_file({"prompt_embeddings": load_file(path)["prompt_embeddings"][:, :-1].contiguous()}, path)


def rename(folder: Path) -> None:
    path = folder / "adapter_model.safetensors"
    save_file({"prompt": load_file(path)["prompt_embeddings"]}, path)


def miscount(folder: Path) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "num_virtual_tokens": 4}))


@both
@pytest.mark.parametrize("damage", [shorten, rename, miscount])
def test_a_folder_that_does_not_fit_is_refused(
    wild_folder: Path, tmp_path: Path, kind: str, damage: Callable[[Path], None]
):
    tuned(wild_folder, kind, tmp_path / "out")
    damage(tmp_path / "out")
    with pytest.raises(UserError, match=r"the base model needs .'prompt_embeddings'") as caught:
        load_tuned(wild_folder, tmp_path / "out", dtype=torch.float32)
    assert caught.value.code == "adapter-invalid"


def test_layers_that_are_computed_twice_are_refused_for_a_prefix():
    fields = {"base_model": "bundled", "data": {"train": "a.jsonl"}, "training": {"gradient_checkpointing": True}}
    Recipe.model_validate({**fields, "method": {"kind": "prompt"}})
    with pytest.raises(ValidationError, match=r"training\.gradient_checkpointing: cannot be combined"):
        Recipe.model_validate({**fields, "method": {"kind": "prefix"}})


@both
def test_an_objective_that_compares_with_the_base_model_is_refused(kind: str):
    fields = {"base_model": "bundled", "data": {"train": "a.jsonl"}, "method": {"kind": kind}}
    for objective in ("dpo", "kto"):
        with pytest.raises(ValidationError, match="does not start as the base model"):
            Recipe.model_validate({**fields, "training": {"objective": objective}})
    Recipe.model_validate({**fields, "training": {"objective": "orpo"}})
