"""LoRA against PEFT: the same folder, the same answers, the same training."""

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

from kivnun.data.packing import pack
from kivnun.data.tokens import TokenTable
from kivnun.methods import BaseModelName
from kivnun.methods.lora import Lora, LoraLinear, load_adapter
from kivnun.models.attention import use_packed_attention
from kivnun.models.load import load_model
from kivnun.models.types import Model
from kivnun.recipe.methods import LoraMethod
from kivnun.recipe.training import TrainingSection
from kivnun.training.loop import fit, make_plan
from kivnun.training.objectives.supervised import summed_loss
from kivnun.training.optimizer import make_master_weights

# PEFT 0.21 asks transformers 5.23 in a way that the latter warns about.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

IDS = torch.arange(3, 23).view(2, 10)
TARGETS = [("q_proj", "v_proj"), ("mlp.up_proj", "model.layers.1.self_attn.k_proj"), "all-linear"]


@torch.no_grad()
def logits(model: torch.nn.Module) -> torch.Tensor:
    return model.eval()(input_ids=IDS).logits


def base_model(folder: Path) -> Model:
    return load_model(folder, dtype=torch.float32)


def peft_model(folder: Path, targets: str | tuple[str, ...], *, is_untrained: bool = False) -> PeftModel:
    torch.manual_seed(0)
    config = LoraConfig(
        r=4,
        lora_alpha=12,
        lora_dropout=0.1,
        target_modules=targets if isinstance(targets, str) else list(targets),
        task_type="CAUSAL_LM",
        init_lora_weights=is_untrained,  # False fills B too
    )
    return get_peft_model(base_model(folder), config)


@pytest.mark.parametrize("targets", TARGETS)
def test_an_adapter_that_peft_wrote_answers_the_same_here(tiny_model_folder: Path, tmp_path: Path, targets):
    theirs = peft_model(tiny_model_folder, targets)
    theirs.save_pretrained(tmp_path / "adapter")
    ours = load_adapter(base_model(tiny_model_folder), tmp_path / "adapter")
    assert (logits(ours) - logits(base_model(tiny_model_folder))).norm() > 1e-3
    torch.testing.assert_close(logits(ours), logits(theirs), atol=1e-5, rtol=1e-5)
    assert {m.dropout for m in ours.modules() if isinstance(m, LoraLinear)} == {0.1}


@pytest.mark.parametrize("targets", TARGETS)
def test_an_adapter_written_here_answers_the_same_in_peft(tiny_model_folder: Path, tmp_path: Path, targets):
    ours = base_model(tiny_model_folder)
    method = Lora(LoraMethod(rank=4, alpha=12, target_modules=targets))
    method.prepare(ours, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    with torch.no_grad():
        for module in ours.modules():
            if isinstance(module, LoraLinear):
                module.lora_B.normal_(0, 0.1)
    method.export(ours, tmp_path, base_model=BaseModelName("tiny", tiny_model_folder))
    theirs = PeftModel.from_pretrained(base_model(tiny_model_folder), tmp_path)
    adapted = [name for name, _ in theirs.named_modules() if name.endswith("lora_A.default")]
    assert len(adapted) == sum(isinstance(module, LoraLinear) for module in ours.modules())
    torch.testing.assert_close(logits(ours), logits(theirs), atol=1e-5, rtol=1e-5)


def plain_loss(model: torch.nn.Module, table: TokenTable, rows: list[int]) -> torch.Tensor:
    """Mean loss over the trained tokens of some rows, one row at a time through the model's own logits."""
    total, count = torch.zeros(()), 0
    for row in rows:
        ids = torch.from_numpy(table.input_ids(row).astype("int64"))
        trained = torch.from_numpy(table.trained(row).astype(bool))[1:]
        out = model(input_ids=ids.unsqueeze(0)).logits[0, :-1]
        total = total + torch.nn.functional.cross_entropy(out[trained], ids[1:][trained], reduction="sum")
        count += int(trained.sum())
    return total / count


def test_five_steps_end_at_the_weights_of_peft_and_plain_adamw(
    tiny_model_folder: Path, tmp_path: Path, tiny_table: TokenTable
):
    theirs = peft_model(tiny_model_folder, "all-linear", is_untrained=True)
    theirs.save_pretrained(tmp_path)
    ours = load_adapter(base_model(tiny_model_folder), tmp_path)
    for module in (*ours.modules(), *theirs.modules()):
        if isinstance(module, LoraLinear):
            module.dropout = 0.0
        elif isinstance(module, torch.nn.Dropout):
            module.p = 0.0

    settings = TrainingSection(
        max_steps=5,
        batch_tokens=40,
        gradient_accumulation_steps=2,
        learning_rate=0.01,
        weight_decay=0.1,
        betas=(0.8, 0.95),
        max_grad_norm=0.5,
        schedule="constant",
        warmup_ratio=0.0,
    )
    use_packed_attention(ours)
    plan = make_plan(tiny_table.lengths(), settings)
    reports = list(fit(ours, make_master_weights(ours, settings), tiny_table, settings, plan=plan))

    trained = [parameter for parameter in theirs.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.01, betas=(0.8, 0.95), weight_decay=0.1)
    theirs.train()
    for report, (_, rows) in zip(reports, plan.batches(0), strict=True):
        loss = plain_loss(theirs, tiny_table, rows)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(trained, 0.5)
        optimizer.step()
        optimizer.zero_grad()
        assert report.loss == pytest.approx(float(loss.detach()), rel=1e-5)
        assert report.grad_norm == pytest.approx(float(norm), rel=1e-4)
    assert reports[0].loss - reports[-1].loss > 0.01

    layers = {name: module for name, module in ours.named_modules() if isinstance(module, LoraLinear)}
    for name, layer in layers.items():
        peft_layer = theirs.get_submodule(f"base_model.model.{name}")
        for mine, peers in ((layer.lora_A, peft_layer.lora_A), (layer.lora_B, peft_layer.lora_B)):
            torch.testing.assert_close(mine, peers["default"].weight, atol=2e-5, rtol=1e-3)


def test_the_loss_of_a_batch_is_that_of_its_rows_one_by_one(tiny_model: Model, tiny_table: TokenTable):
    rows = list(range(len(tiny_table)))
    batch = pack(tiny_table, rows)
    expected = plain_loss(tiny_model, tiny_table, rows) * len(batch.target_ids)
    use_packed_attention(tiny_model)
    torch.testing.assert_close(summed_loss(tiny_model, batch), expected, rtol=1e-5, atol=1e-4)
