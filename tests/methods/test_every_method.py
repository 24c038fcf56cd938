"""What every method promises: it trains its weights alone, its seed covers it, and it comes back as it was written."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from kivnun.data.tokens import TokenTable
from kivnun.errors import UserError
from kivnun.generation.torch_engine import TorchEngine
from kivnun.methods import BaseModelName, load_tuned, make_method, merge, require_mergeable, trainable_names
from kivnun.models.attention import use_packed_attention, use_standard_attention
from kivnun.models.empty import empty_model
from kivnun.models.load import load_model
from kivnun.models.save import save_model
from kivnun.models.types import Model, Tokenizer
from kivnun.recipe import methods as sections
from kivnun.recipe.methods import BottleneckMethod, FullMethod, LoraMethod, PartialMethod
from kivnun.recipe.training import TrainingSection
from kivnun.training.loop import fit, make_plan
from kivnun.training.optimizer import make_master_weights

IDS = torch.arange(3, 23).view(2, 10)
SMALL = {"rank": 4, "alpha": 8}


def is_in_last_layer(name: str) -> bool:
    return name.startswith(("model.layers.1.", "model.norm."))


def is_adapter(name: str) -> bool:
    return ".lora_" in name


METHODS: dict[str, tuple[sections.Method, Callable[[str], bool]]] = {
    "full": (FullMethod(), lambda _name: True),
    "last layer": (PartialMethod(last_layers=1), is_in_last_layer),
    "named weights": (
        PartialMethod(modules=("layers.*.mlp", "norm.weight")),
        lambda name: ".mlp." in name or name == "model.norm.weight",
    ),
    "lora": (LoraMethod(**SMALL), is_adapter),
    "lora with dropout": (LoraMethod(**SMALL, dropout=0.2, target_modules=("q_proj",)), is_adapter),
    "rslora": (LoraMethod(**SMALL, use_rslora=True), is_adapter),
    "dora": (LoraMethod(**SMALL, use_dora=True), is_adapter),
    "dora with dropout": (LoraMethod(**SMALL, use_dora=True, dropout=0.2), is_adapter),
    "lora and saved modules": (
        LoraMethod(**SMALL, modules_to_save=("embed_tokens", "lm_head", "norm", "layers.1.mlp")),
        lambda name: is_adapter(name) or "layers.1.mlp" in name or name.startswith(("model.embed", "model.norm", "lm")),
    ),
    "houlsby": (
        BottleneckMethod(placement="houlsby", bottleneck_size=5, activation="gelu"),
        lambda name: name.rpartition(".")[2] in {"down_weight", "down_bias", "up_weight", "up_bias"},
    ),
    "pfeiffer": (
        BottleneckMethod(bottleneck_size=5),
        lambda name: ".mlp.down_proj." in name and not name.endswith("base.weight"),
    ),
}
every_method = pytest.mark.parametrize("kind", METHODS)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def train(model: Model, table: TokenTable, *, num_steps: int = 3) -> None:
    settings = TrainingSection(max_steps=num_steps, batch_tokens=100, learning_rate=0.01, precision="fp32")
    use_packed_attention(model)
    weights = make_master_weights(model, settings)
    list(fit(model, weights, table, settings, plan=make_plan(table.lengths(), settings)))
    use_standard_attention(model)
    model.eval()


def values(model: Model) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.named_parameters(remove_duplicate=False)}


@torch.no_grad()
def logits(model: Model) -> torch.Tensor:
    return model(input_ids=IDS).logits


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@every_method
def test_exactly_the_promised_weights_are_trained(
    tiny_model_folder: Path, tiny_table: TokenTable, kind: str, dtype: torch.dtype
):
    settings, is_promised = METHODS[kind]
    model = load_model(tiny_model_folder, dtype=dtype)
    make_method(settings).prepare(model, generator=seeded())
    promised = {name for name, _ in model.named_parameters() if is_promised(name)}
    assert set(trainable_names(model)) == promised
    before = values(model)
    train(model, tiny_table)
    after = values(model)
    changed = {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}
    assert changed == promised
    assert after.keys() == before.keys()


@every_method
def test_an_untrained_method_is_the_base_model_exactly(tiny_model: Model, kind: str):
    before = logits(tiny_model)
    make_method(METHODS[kind][0]).prepare(tiny_model, generator=seeded())
    assert torch.equal(logits(tiny_model), before)


@every_method
def test_what_will_be_trained_is_counted_without_a_weight(tiny_model: Model, tiny_model_folder: Path, kind: str):
    empty = empty_model(tiny_model_folder)
    for model in (tiny_model, empty):
        make_method(METHODS[kind][0]).prepare(model, generator=seeded())
    assert all(parameter.is_meta for parameter in empty.parameters())
    assert trainable_names(empty) == trainable_names(tiny_model)
    assert [p.shape for p in empty.parameters()] == [p.shape for p in tiny_model.parameters()]


@every_method
def test_the_seed_covers_what_a_method_adds(tiny_model_folder: Path, kind: str):
    state = torch.get_rng_state()
    made: list[dict[str, torch.Tensor]] = []
    for seed in (5, 5, 6):
        model = load_model(tiny_model_folder, dtype=torch.float32)
        make_method(METHODS[kind][0]).prepare(model, generator=seeded(seed))
        made.append(values(model))
    assert torch.equal(torch.get_rng_state(), state)
    one, same, other = made
    assert all(torch.equal(one[name], same[name]) for name in one)
    drawn = {name for name in one if not torch.equal(one[name], other[name])}
    assert drawn == {name for name in one if name.endswith(("lora_A", "down_weight"))}


@every_method
def test_what_was_trained_comes_back_answers_the_same_and_merges(
    tiny_model_folder: Path, tiny_tokenizer: Tokenizer, tiny_table: TokenTable, tmp_path: Path, kind: str
):
    settings, _ = METHODS[kind]
    model = load_model(tiny_model_folder, dtype=torch.float32)
    base = logits(model)
    method = make_method(settings)
    method.prepare(model, generator=seeded())
    train(model, tiny_table)
    trained = logits(model)
    assert (trained - base).norm() > 1e-4 * base.norm()
    folder = tmp_path / "model"
    folder.mkdir()
    method.export(model, folder, base_model=BaseModelName("tiny", tiny_model_folder))

    again = load_tuned(tiny_model_folder, folder, dtype=torch.float32)
    assert not any(module.training for module in again.modules())
    assert torch.equal(logits(again), trained)
    prompts = [[5, 9, 30], [7, 8]]
    ours, theirs = (
        TorchEngine(each, pad_id=0).generate(prompts, max_new_tokens=5, stop_ids=frozenset()) for each in (model, again)
    )
    assert [answer.token_ids for answer in ours] == [answer.token_ids for answer in theirs]

    if not method.mergeable:
        with pytest.raises(UserError, match="cannot be merged") as caught:
            merge(again)
        assert caught.value.code == "stage-unsupported"
        return
    save_model(merge(again), tiny_tokenizer, tmp_path / "merged")
    merged = load_model(tmp_path / "merged", dtype=torch.float32)
    assert {name.rpartition(".")[2] for name, _ in merged.named_parameters()} == {"weight"}
    torch.testing.assert_close(logits(merged), trained, atol=1e-5, rtol=1e-4)


def test_only_what_merges_may_be_optimized():
    for settings, _ in METHODS.values():
        if settings.kind == "adapter":
            with pytest.raises(UserError, match="adapter") as caught:
                require_mergeable(settings)
            assert caught.value.code == "stage-unsupported"
        else:
            require_mergeable(settings)


@pytest.mark.parametrize("kind", ["lora", "pfeiffer"])
def test_an_adapter_of_a_base_model_with_other_weights_is_refused_with_both_hashes(
    tiny_model_folder: Path, tiny_tokenizer: Tokenizer, tmp_path: Path, kind: str
):
    model = load_model(tiny_model_folder, dtype=torch.float32)
    with torch.no_grad():
        model.model.norm.weight[3] += 1e-3
    other = tmp_path / "other"
    save_model(model, tiny_tokenizer, other)
    method = make_method(METHODS[kind][0])
    method.prepare(model, generator=seeded())
    folder = tmp_path / "adapter"
    folder.mkdir()
    name = BaseModelName("org/other", other)
    method.export(model, folder, base_model=name)
    load_tuned(other, folder, dtype=torch.float32)
    with pytest.raises(UserError) as caught:
        load_tuned(tiny_model_folder, folder, dtype=torch.float32)
    assert caught.value.code == "adapter-invalid"
    given = BaseModelName("tiny", tiny_model_folder).content_hash
    assert caught.value.details == (f"trained on org/other: {name.content_hash}", f"given: {given}")
    assert name.content_hash != given

    # An edited tokenizer or chat template makes no other model.
    (other / "chat_template.jinja").write_text("{{ messages }}", "utf-8")
    load_tuned(other, folder, dtype=torch.float32)
    (folder / "base_model.json").write_text('{"name": "tiny"}')
    with pytest.raises(UserError, match=r"base_model\.json"):
        load_tuned(other, folder, dtype=torch.float32)


def test_an_adapter_without_a_hash_is_refused_only_for_another_model_of_the_hub(
    tiny_model_folder: Path, tmp_path: Path, tiny_model: Model
):
    method = make_method(LoraMethod(**SMALL))
    method.prepare(tiny_model, generator=seeded())
    folder = tmp_path / "adapter"
    folder.mkdir()
    method.export(tiny_model, folder, base_model=BaseModelName("Some/Model", tiny_model_folder))
    (folder / "base_model.json").unlink()
    load_tuned(tiny_model_folder, folder, dtype=torch.float32)
    for name in ("some--model", "some--other"):
        cached = tmp_path / f"models--{name}" / "snapshots" / "abc"
        cached.parent.mkdir(parents=True)
        cached.symlink_to(tiny_model_folder)
        if name == "some--model":
            load_tuned(cached, folder, dtype=torch.float32)
            continue
        with pytest.raises(UserError, match="trained on Some/Model, not on some/other") as caught:
            load_tuned(cached, folder, dtype=torch.float32)
        assert caught.value.code == "adapter-invalid"


def test_an_adapter_of_an_unknown_kind_is_refused(tiny_model_folder: Path, tmp_path: Path):
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "VERA"}')
    with pytest.raises(UserError, match="VERA") as caught:
        load_tuned(tiny_model_folder, tmp_path, dtype=torch.float32)
    assert caught.value.code == "adapter-invalid"
