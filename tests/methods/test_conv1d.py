"""GPT-2 keeps the matrices of its linear layers as (I, O): every method trains, writes and merges them all the same."""

import json
from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F  # noqa: N812 - the name of the field
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel
from transformers.pytorch_utils import Conv1D

from kivnun.data.packing import pack
from kivnun.data.tokens import TokenTable
from kivnun.errors import UserError
from kivnun.generation.torch_engine import TorchEngine
from kivnun.inputs import fit_context
from kivnun.methods import BaseModelName, load_tuned, make_method, merge, trainable_names
from kivnun.methods.adapted_linear import DoraLinear, LoraLinear
from kivnun.methods.lora import adapted_layers, load_adapter
from kivnun.methods.targets import find_targets
from kivnun.models.attention import use_packed_attention, use_standard_attention
from kivnun.models.empty import empty_model
from kivnun.models.linear_layers import weight_matrix
from kivnun.models.load import load_model
from kivnun.models.quantize import QuantizedLinear
from kivnun.models.resolve import ResolvedModel
from kivnun.models.save import save_model
from kivnun.models.types import Model, Tokenizer
from kivnun.recipe.methods import FullMethod, LoraMethod, Method, PartialMethod, QloraMethod
from kivnun.recipe.schema import DataSection
from kivnun.recipe.training import TrainingSection
from kivnun.training.loop import StepReport, fit, make_plan
from kivnun.training.objectives.supervised import summed_loss
from kivnun.training.optimizer import make_master_weights

pytestmark = [
    # PEFT 0.21 asks transformers 5.23 in a way that the latter warns about.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    # It warns of every tied head; that ours stays right when it is merged is tested here.
    pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`:UserWarning"),
]

IDS = torch.arange(3, 23).view(2, 10)
CONTEXT_TOKENS = 48
TARGETS = {"rank": 4, "alpha": 8, "target_modules": ("c_attn", "c_proj")}
SEED_000 = LoraMethod(**TARGETS, modules_to_save=("ln_f", "lm_head"))
METHODS: dict[str, Method] = {
    "full": FullMethod(),
    "last layer": PartialMethod(last_layers=1),
    "named weights": PartialMethod(modules=("h.*.mlp",)),
    "lora": LoraMethod(**TARGETS),
    "lora with dropout": LoraMethod(rank=4, alpha=8, dropout=0.2),
    "lora and saved modules": SEED_000,
    "lora and a saved block": LoraMethod(rank=4, alpha=8, modules_to_save=("h.1.mlp",)),
    "dora": LoraMethod(**TARGETS, use_dora=True),
    "dora with dropout": LoraMethod(rank=4, alpha=8, use_dora=True, dropout=0.2),
    "qlora": QloraMethod(**TARGETS),
    "qlora with dora": QloraMethod(rank=4, alpha=8, use_dora=True, modules_to_save=("lm_head",)),
}
LORA = [name for name, method in METHODS.items() if isinstance(method, LoraMethod)]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="session")
def gpt2_folder(tiny_tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With biases that matter; without dropout, so that equalities hold while it trains."""
    torch.manual_seed(5)
    config = GPT2Config(
        vocab_size=400,
        n_positions=CONTEXT_TOKENS,
        n_embd=32,
        n_layer=2,
        n_head=4,
        initializer_range=0.1,
        bos_token_id=1,
        eos_token_id=2,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
    )
    model = GPT2LMHeadModel(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(0, 0.1)
    folder = tmp_path_factory.mktemp("base") / "gpt2"
    save_model(model, tiny_tokenizer, folder)
    return folder


@pytest.fixture
def gpt2(gpt2_folder: Path) -> Model:
    return load_model(gpt2_folder, dtype=torch.float32)


@torch.no_grad()
def logits(model: torch.nn.Module) -> torch.Tensor:
    return model.eval()(input_ids=IDS).logits


def prepared(model: Model, method: Method) -> Model:
    """With the method's weights given values, as a training would."""
    make_method(method).prepare(model, generator=seeded())
    generator = seeded(9)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                size = 0.3 if name.endswith("lora_B") else 0.02
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=size)
    return model


def train(model: Model, table: TokenTable, **fields: object) -> list[StepReport]:
    settings = TrainingSection(
        **{"max_steps": 3, "batch_tokens": 100, "learning_rate": 0.01, "precision": "fp32", **fields}
    )
    use_packed_attention(model)
    weights = make_master_weights(model, settings)
    reports = list(fit(model, weights, table, settings, plan=make_plan(table.lengths(), settings)))
    use_standard_attention(model)
    return reports


def written(model: Model, method: Method, base: Path, folder: Path) -> Path:
    folder.mkdir()
    make_method(method).export(model, folder, base_model=BaseModelName("tiny", base))
    return folder


@pytest.mark.parametrize("use_dora", [False, True])
def test_an_adapted_layer_is_the_plain_formula_and_so_are_its_gradients(use_dora: bool):
    torch.manual_seed(0)
    base = Conv1D(6, 5)
    torch.nn.init.normal_(base.bias)
    kind = DoraLinear if use_dora else LoraLinear
    layer = kind(base, LoraMethod(rank=2, alpha=6, use_dora=use_dora), generator=seeded())
    with torch.no_grad():
        layer.lora_B.normal_(generator=seeded(1))
    x = torch.randn(2, 3, 5, requires_grad=True)
    y = layer(x)
    update_OI = 3 * layer.lora_B @ layer.lora_A
    if use_dora:
        whole_OI = base.weight.T + update_OI
        scale_O = layer.lora_magnitude_vector / whole_OI.norm(dim=1).detach()
        expected = F.linear(x, whole_OI) * scale_O + base.bias
    else:
        expected = base(x) + F.linear(x, update_OI)
    torch.testing.assert_close(y, expected)
    inputs, weight = (x, layer.lora_A, layer.lora_B), torch.randn(2, 3, 6)
    ours, plain = (torch.autograd.grad(out, inputs, weight, retain_graph=True) for out in (y, expected))
    for one, other in zip(ours, plain, strict=True):
        torch.testing.assert_close(one, other)
    assert layer.matrix.shape == layer.merged_weight().shape == (6, 5)
    assert layer.base.weight.shape == (5, 6)


@pytest.mark.parametrize("kind", [kind for kind in LORA if "qlora" not in kind])
def test_an_untrained_adapter_is_the_base_model(gpt2: Model, kind: str):
    before = logits(gpt2)
    make_method(METHODS[kind]).prepare(gpt2, generator=seeded())
    torch.testing.assert_close(logits(gpt2), before, atol=1e-5, rtol=1e-5)


def test_all_linear_finds_every_layer_but_the_head_and_a_name_finds_both_of_its_kind(gpt2: Model):
    names = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    assert find_targets(gpt2, "all-linear") == [f"transformer.h.{layer}.{name}" for layer in (0, 1) for name in names]
    assert len(find_targets(gpt2, ("c_proj",))) == 4
    assert find_targets(gpt2, ("attn.c_proj",)) == [f"transformer.h.{layer}.attn.c_proj" for layer in (0, 1)]
    with pytest.raises(UserError, match="c_prj") as caught:
        find_targets(gpt2, ("c_prj",))
    assert "c_attn, c_fc, c_proj" in caught.value.hint


def test_a_rank_above_the_smaller_side_is_refused_with_the_shape_as_out_by_in(gpt2: Model):
    method = make_method(LoraMethod(rank=33, alpha=8, target_modules=("c_attn",)))
    with pytest.raises(UserError, match=r"c_attn \(96 x 32\)"):
        method.prepare(gpt2, generator=seeded())


@pytest.mark.parametrize("kind", METHODS)
def test_what_was_trained_comes_back_answers_the_same_and_merges(
    gpt2: Model, gpt2_folder: Path, tiny_tokenizer: Tokenizer, tiny_table: TokenTable, tmp_path: Path, kind: str
):
    method, base = METHODS[kind], logits(gpt2)
    make_method(method).prepare(gpt2, generator=seeded())
    embeddings = gpt2.transformer.wte.weight.detach().clone()
    train(gpt2, tiny_table)
    trained = logits(gpt2)
    assert (trained - base).norm() > 1e-3 * base.norm()
    assert torch.equal(gpt2.transformer.wte.weight, embeddings) == (kind != "full")

    again = load_tuned(gpt2_folder, written(gpt2, method, gpt2_folder, tmp_path / "model"), dtype=torch.float32)
    expected = logits(again)
    if kind.startswith("qlora"):
        # It was trained on rounded weights and goes on the whole ones.
        assert (expected - trained).norm() < 0.5 * trained.norm()
    else:
        assert torch.equal(expected, trained)
    save_model(merge(again), tiny_tokenizer, tmp_path / "merged")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(logits(merged), expected, atol=1e-5, rtol=1e-4)

    before, after = (load_file(folder / "model.safetensors") for folder in (gpt2_folder, tmp_path / "merged"))
    is_untied = "lm_head" in getattr(method, "modules_to_save", ())
    assert after.keys() - before.keys() == ({"lm_head.weight"} if is_untied else set())
    assert {name: after[name].shape for name in before} == {name: value.shape for name, value in before.items()}
    config = json.loads((tmp_path / "merged" / "config.json").read_text())
    assert config["tie_word_embeddings"] is not is_untied
    assert torch.equal(after["transformer.wte.weight"], before["transformer.wte.weight"]) == (kind != "full")


@pytest.mark.parametrize("kind", ["lora", "lora and saved modules", "lora and a saved block", "dora"])
def test_an_adapter_of_peft_answers_the_same_here(gpt2_folder: Path, tmp_path: Path, kind: str):
    method = METHODS[kind]
    torch.manual_seed(0)
    config = peft.LoraConfig(
        r=method.rank,
        lora_alpha=method.alpha,
        target_modules=method.target_modules if isinstance(method.target_modules, str) else list(method.target_modules),
        modules_to_save=list(method.modules_to_save) or None,
        use_dora=method.use_dora,
        fan_in_fan_out=True,
        task_type="CAUSAL_LM",
        init_lora_weights=False,
    )
    theirs = peft.get_peft_model(load_model(gpt2_folder, dtype=torch.float32), config)
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if "modules_to_save" in name:
                parameter.add_(torch.randn(parameter.shape), alpha=0.1)
    theirs.save_pretrained(tmp_path / "adapter")
    base = load_model(gpt2_folder, dtype=torch.float32)
    before = logits(base)
    ours = logits(load_adapter(base, tmp_path / "adapter"))
    assert (ours - before).norm() > 0.1 * before.norm()
    torch.testing.assert_close(ours, logits(theirs), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", LORA)
def test_an_adapter_written_here_answers_the_same_in_peft(gpt2: Model, gpt2_folder: Path, tmp_path: Path, kind: str):
    """PEFT warns where `fan_in_fan_out` is wrong, and a warning fails this test."""
    folder = written(prepared(gpt2, METHODS[kind]), METHODS[kind], gpt2_folder, tmp_path / "adapter")
    assert json.loads((folder / "adapter_config.json").read_text())["fan_in_fan_out"] is True
    base = load_model(gpt2_folder, dtype=torch.float32)
    before = logits(base)
    ours = logits(load_adapter(base, folder))
    theirs = logits(peft.PeftModel.from_pretrained(load_model(gpt2_folder, dtype=torch.float32), folder))
    assert (ours - before).norm() > 0.1 * before.norm()
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("use_dora", [False, True])
def test_the_4_bits_are_those_of_the_same_matrix_the_other_way_round(gpt2_folder: Path, use_dora: bool):
    names = find_targets(load_model(gpt2_folder, dtype=torch.float32), "all-linear")
    model, dense = (load_model(gpt2_folder, dtype=torch.float32) for _ in range(2))
    prepared(model, QloraMethod(rank=4, alpha=8, use_dora=use_dora))
    for name in names:
        conv, adapted = dense.get_submodule(name), model.get_submodule(name)
        linear = torch.nn.Linear(*conv.weight.shape)
        linear.weight, linear.bias = torch.nn.Parameter(conv.weight.T.contiguous()), conv.bias
        expected = QuantizedLinear(linear, quant_type="nf4", double_quant=True).dequantize(torch.float32)
        assert torch.equal(adapted.base_weight(), expected)
        with torch.no_grad():
            weight_matrix(conv).copy_(expected)
    # The same adapter on layers that hold what the 4 bits stand for computes the same.
    prepared(dense, LoraMethod(rank=4, alpha=8, use_dora=use_dora))
    torch.testing.assert_close(logits(model), logits(dense), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", METHODS)
def test_what_will_be_trained_is_counted_without_a_weight(gpt2: Model, gpt2_folder: Path, kind: str):
    empty = empty_model(gpt2_folder)
    for model in (gpt2, empty):
        make_method(METHODS[kind]).prepare(model, generator=seeded())
    assert trainable_names(empty) == trainable_names(gpt2)
    assert [p.shape for p in empty.parameters()] == [p.shape for p in gpt2.parameters()]


def test_the_seed_trains_its_layers_and_modules_alone(gpt2: Model):
    make_method(SEED_000).prepare(gpt2, generator=seeded())
    adapted = [name for name, _ in adapted_layers(gpt2)]
    names = ("attn.c_attn", "attn.c_proj", "mlp.c_proj")
    assert adapted == [f"transformer.h.{layer}.{name}" for layer in (0, 1) for name in names]
    others = {name for name in trainable_names(gpt2) if ".lora_" not in name}
    assert others == {"transformer.ln_f.weight", "transformer.ln_f.bias", "lm_head.weight"}
    assert gpt2.lm_head.weight is not gpt2.transformer.wte.weight


def test_the_loss_of_packed_rows_is_that_of_each_row_alone(gpt2: Model, tiny_table: TokenTable):
    """Positions are learned: they must start anew with each document."""
    model = prepared(gpt2, LoraMethod(**TARGETS))
    rows = list(range(len(tiny_table)))
    expected = torch.zeros(())
    with torch.no_grad():
        for row in rows:
            ids = torch.from_numpy(tiny_table.input_ids(row).astype("int64"))
            trained = torch.from_numpy(tiny_table.trained(row).astype(bool))[1:]
            out = model(input_ids=ids.unsqueeze(0)).logits[0, :-1]
            expected = expected + F.cross_entropy(out[trained], ids[1:][trained], reduction="sum")
        use_packed_attention(model)
        torch.testing.assert_close(summed_loss(model, pack(tiny_table, rows)), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("kind", ["full", "lora and saved modules", "dora", "qlora"])
def test_splitting_a_batch_changes_nothing(gpt2_folder: Path, tiny_table: TokenTable, kind: str):
    models = [load_model(gpt2_folder, dtype=torch.float32) for _ in range(2)]
    for model in models:
        make_method(METHODS[kind]).prepare(model, generator=seeded())
    one = train(models[0], tiny_table, batch_tokens=200)
    other = train(models[1], tiny_table, batch_tokens=50, gradient_accumulation_steps=4)
    for before, after in zip(one, other, strict=True):
        assert after.loss == pytest.approx(before.loss, rel=1e-5)
        assert after.grad_norm == pytest.approx(before.grad_norm, rel=1e-3)


def test_prompts_of_many_lengths_are_answered_together_as_one_by_one(gpt2: Model):
    model = prepared(gpt2, LoraMethod(**TARGETS)).eval()
    prompts = [[(17 * row + 31 * place) % 397 + 3 for place in range(1 + 5 * row)] for row in range(6)]
    together, alone = (
        TorchEngine(model, pad_id=2, batch_size=size).generate(prompts, max_new_tokens=8, stop_ids=frozenset())
        for size in (6, 1)
    )
    assert [answer.token_ids for answer in together] == [answer.token_ids for answer in alone]


def test_positions_are_the_limit_of_rows_prompts_and_answers(gpt2: Model, gpt2_folder: Path):
    data = DataSection.model_validate({"train": "rows.jsonl", "max_seq_len": 1024})
    fitted, limit = fit_context(data, ResolvedModel(gpt2_folder, "tiny", None, ""), LoraMethod())
    assert (fitted.max_seq_len, limit) == (CONTEXT_TOKENS, CONTEXT_TOKENS)
    engine = TorchEngine(gpt2, pad_id=2)
    (answer,) = engine.generate([[5] * (CONTEXT_TOKENS - 3)], max_new_tokens=50, stop_ids=frozenset())
    assert len(answer.token_ids) == 3
    with pytest.raises(UserError, match="cannot be answered"):
        engine.generate([[5] * CONTEXT_TOKENS], max_new_tokens=1, stop_ids=frozenset())
