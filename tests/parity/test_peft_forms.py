"""rsLoRA, DoRA and saved modules against PEFT: the same folder, the same answers, the same training."""

import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.optimizers import create_loraplus_optimizer

from kivnun.data.tokens import TokenTable
from kivnun.methods import BaseModelName, learning_rate_scales, load_tuned
from kivnun.methods.lora import AdaptedLinear, Lora, load_adapter, merge_adapters
from kivnun.models.attention import use_packed_attention
from kivnun.models.load import load_model
from kivnun.models.new import make_model
from kivnun.models.save import save_model
from kivnun.models.types import Model, Tokenizer
from kivnun.recipe.methods import LoraMethod
from kivnun.recipe.schema import NewModel
from kivnun.recipe.training import TrainingSection
from kivnun.training.loop import fit, make_plan
from kivnun.training.optimizer import make_master_weights

pytestmark = [
    # PEFT 0.21 asks transformers 5.23 in a way that the latter warns about, and warns of copying tied embeddings.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`:UserWarning"),
]

IDS = torch.arange(3, 23).view(2, 10)
FORMS = {
    "lora": {},
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "rslora and dora": {"use_rslora": True, "use_dora": True},
}
SAVED = {"nothing": (), "embeddings": ("embed_tokens",), "head": ("lm_head",), "both": ("embed_tokens", "lm_head")}
every_form = pytest.mark.parametrize("form", FORMS)
every_case = pytest.mark.parametrize(
    ("form", "saved", "is_tied"),
    [
        *((form, "nothing", True) for form in FORMS),
        *(("lora", saved, is_tied) for saved in ("embeddings", "head") for is_tied in (True, False)),
        *(("dora", "both", is_tied) for is_tied in (True, False)),
    ],
)


@pytest.fixture(scope="session")
def untied_folder(tiny_tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    shape = NewModel(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=False,
    )
    folder = tmp_path_factory.mktemp("untied") / "model"
    save_model(make_model(shape, tiny_tokenizer, seed=2), tiny_tokenizer, folder)
    return folder


@torch.no_grad()
def logits(model: torch.nn.Module) -> torch.Tensor:
    return model.eval()(input_ids=IDS).logits


def base_model(folder: Path) -> Model:
    return load_model(folder, dtype=torch.float32)


def peft_model(folder: Path, form: str, saved: tuple[str, ...] = (), **fields: object) -> PeftModel:
    torch.manual_seed(0)
    config = LoraConfig(
        **{"r": 4, "lora_alpha": 12, "target_modules": "all-linear", "task_type": "CAUSAL_LM", **FORMS[form], **fields},
        modules_to_save=list(saved) or None,
    )
    return get_peft_model(base_model(folder), config)


@torch.no_grad()
def shake(model: torch.nn.Module) -> None:
    """Give everything that is trained other values, as a training would."""
    generator = torch.Generator().manual_seed(3)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.05)


@every_case
def test_a_folder_that_peft_wrote_answers_the_same_here(
    tiny_model_folder: Path, untied_folder: Path, tmp_path: Path, form: str, saved: str, is_tied: bool
):
    folder = tiny_model_folder if is_tied else untied_folder
    theirs = peft_model(folder, form, SAVED[saved])
    shake(theirs)
    theirs.save_pretrained(tmp_path)
    ours = load_tuned(folder, tmp_path, dtype=torch.float32)
    assert (logits(ours) - logits(base_model(folder))).norm() > 0.1
    torch.testing.assert_close(logits(ours), logits(theirs), atol=1e-5, rtol=1e-4)


@every_case
def test_a_folder_written_here_answers_the_same_in_peft_and_merged(
    tiny_model_folder: Path,
    untied_folder: Path,
    tiny_tokenizer: Tokenizer,
    tmp_path: Path,
    form: str,
    saved: str,
    is_tied: bool,
):
    folder = tiny_model_folder if is_tied else untied_folder
    ours = base_model(folder)
    method = Lora(LoraMethod(rank=4, alpha=12, modules_to_save=SAVED[saved], **FORMS[form]))
    method.prepare(ours, generator=torch.Generator().manual_seed(0))
    shake(ours)
    method.export(ours, tmp_path, base_model=BaseModelName("tiny", folder))
    theirs = PeftModel.from_pretrained(base_model(folder), tmp_path)
    mine = logits(ours)
    torch.testing.assert_close(mine, logits(theirs), atol=1e-5, rtol=1e-4)
    assert torch.equal(logits(load_tuned(folder, tmp_path, dtype=torch.float32)), mine)
    save_model(merge_adapters(ours), tiny_tokenizer, tmp_path / "merged")
    merged = base_model(tmp_path / "merged")
    torch.testing.assert_close(logits(merged), mine, atol=1e-5, rtol=1e-4)
    # Tools that trust the configuration would else give one matrix for both.
    assert merged.config.tie_word_embeddings == (is_tied and saved == "nothing")


def test_a_saved_module_named_by_its_end_alone_is_that_module_in_peft_too(tiny_model_folder: Path, tmp_path: Path):
    ours = base_model(tiny_model_folder)
    method = Lora(LoraMethod(rank=4, alpha=12, modules_to_save=("norm",)))
    method.prepare(ours, generator=torch.Generator().manual_seed(0))
    shake(ours)
    method.export(ours, tmp_path, base_model=BaseModelName("tiny", tiny_model_folder))
    theirs = PeftModel.from_pretrained(base_model(tiny_model_folder), tmp_path)
    assert [name for name, _ in theirs.named_modules() if name.endswith("modules_to_save.default")] == [
        "base_model.model.model.norm.modules_to_save.default"
    ]
    torch.testing.assert_close(logits(ours), logits(theirs), atol=1e-5, rtol=1e-4)


def test_peft_takes_the_ends_of_names_and_so_does_reading(tiny_model_folder: Path, tmp_path: Path):
    theirs = peft_model(tiny_model_folder, "lora", ("norm", "mlp"))
    shake(theirs)
    theirs.save_pretrained(tmp_path)
    ours = load_adapter(base_model(tiny_model_folder), tmp_path)
    torch.testing.assert_close(logits(ours), logits(theirs), atol=1e-5, rtol=1e-4)


def test_the_fields_that_we_write_are_those_of_peft_with_the_same_values(tiny_model_folder: Path, tmp_path: Path):
    targets = ("q_proj", "v_proj")
    theirs = peft_model(tiny_model_folder, "rslora and dora", ("model.norm",), target_modules=list(targets))
    theirs.save_pretrained(tmp_path / "theirs")
    settings = LoraMethod(rank=4, alpha=12, target_modules=targets, modules_to_save=("model.norm",))
    method = Lora(settings.model_copy(update=FORMS["rslora and dora"]))
    ours = base_model(tiny_model_folder)
    method.prepare(ours, generator=torch.Generator())
    (tmp_path / "ours").mkdir()
    method.export(ours, tmp_path / "ours", base_model=BaseModelName(str(tiny_model_folder), tiny_model_folder))
    mine, peers = (json.loads((tmp_path / name / "adapter_config.json").read_text()) for name in ("ours", "theirs"))
    for config in (mine, peers):
        config["target_modules"] = sorted(config["target_modules"])
    assert mine == {key: peers[key] for key in mine}


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


@pytest.mark.parametrize(
    ("form", "saved", "ratio"), [("rslora", "nothing", 4), ("dora", "nothing", 1), ("dora", "both", 4)]
)
def test_training_ends_at_the_weights_of_peft_and_plain_adamw(
    tiny_model_folder: Path, tmp_path: Path, tiny_table: TokenTable, form: str, saved: str, ratio: int
):
    theirs = peft_model(tiny_model_folder, form, SAVED[saved])
    theirs.save_pretrained(tmp_path)
    ours = load_adapter(base_model(tiny_model_folder), tmp_path)
    settings = TrainingSection(
        max_steps=4, batch_tokens=60, learning_rate=0.01, schedule="constant", warmup_ratio=0.0, max_grad_norm=0.5
    )
    use_packed_attention(ours)
    plan = make_plan(tiny_table.lengths(), settings)
    # LoRA+ is a matter of training, so that an adapter's folder does not tell of it.
    scales = {name: float(ratio) for name, _ in ours.named_parameters() if name.endswith("lora_B")}
    weights = make_master_weights(ours, settings, scales)
    reports = list(fit(ours, weights, tiny_table, settings, plan=plan))

    trained = {name: value for name, value in theirs.named_parameters() if value.requires_grad}
    assert sum(p.numel() for p in trained.values()) == sum(p.numel() for p in ours.parameters() if p.requires_grad)
    groups = [
        {
            "params": [value],
            "lr": 0.01 * (ratio if ".lora_B." in name else 1),
            "weight_decay": settings.weight_decay if value.ndim > 1 else 0.0,
        }
        for name, value in trained.items()
    ]
    optimizer = torch.optim.AdamW(groups, betas=settings.betas)
    theirs.train()
    for report, (_, rows) in zip(reports, plan.batches(0), strict=True):
        loss = plain_loss(theirs, tiny_table, rows)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(trained.values(), 0.5)
        optimizer.step()
        optimizer.zero_grad()
        assert report.loss == pytest.approx(float(loss.detach()), rel=1e-5)
        assert report.grad_norm == pytest.approx(float(norm), rel=1e-4)
    layers = {name: module for name, module in ours.named_modules() if isinstance(module, AdaptedLinear)}
    assert len(layers) == 14
    for name, layer in layers.items():
        peer = theirs.get_submodule(f"base_model.model.{name}")
        pairs = [(layer.lora_A, peer.lora_A["default"].weight), (layer.lora_B, peer.lora_B["default"].weight)]
        if form == "dora":
            pairs.append((layer.lora_magnitude_vector, peer.lora_magnitude_vector["default"].weight))
        for mine, other in pairs:
            torch.testing.assert_close(mine, other, atol=5e-5, rtol=2e-3)


@every_form
def test_dropout_falls_on_the_same_input_as_in_peft(tiny_model_folder: Path, tmp_path: Path, form: str):
    theirs = peft_model(tiny_model_folder, form, lora_dropout=0.5, target_modules=["up_proj"], layers_to_transform=[0])
    shake(theirs)
    theirs.save_pretrained(tmp_path)
    ours = load_adapter(base_model(tiny_model_folder), tmp_path).get_submodule("model.layers.0.mlp.up_proj").train()
    peer = theirs.get_submodule("base_model.model.model.layers.0.mlp.up_proj").train()
    assert isinstance(ours, AdaptedLinear)
    x = torch.randn(3, 7, 32, generator=torch.Generator().manual_seed(1))
    outputs: list[torch.Tensor] = []
    for layer in (ours, peer):
        torch.manual_seed(5)
        outputs.append(layer(x))
    torch.testing.assert_close(*outputs, atol=1e-5, rtol=1e-4)
    assert (outputs[0] - ours.eval()(x)).norm() > 0.1


def test_b_learns_faster_than_a_as_in_pefts_lora_plus(tiny_model_folder: Path):
    theirs = peft_model(tiny_model_folder, "lora")
    optimizer = create_loraplus_optimizer(theirs, torch.optim.AdamW, lr=0.01, loraplus_lr_ratio=16.0)
    names = {id(parameter): name for name, parameter in theirs.named_parameters()}
    rates = {
        names[id(parameter)].removeprefix("base_model.model.").removesuffix(".default.weight"): group["lr"]
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    ours = base_model(tiny_model_folder)
    method = Lora(LoraMethod(rank=4, alpha=12, learning_rate_ratio=16))
    method.prepare(ours, generator=torch.Generator())
    scales = learning_rate_scales(ours)
    trained = [name for name, parameter in ours.named_parameters() if parameter.requires_grad]
    assert {name: 0.01 * scales.get(name, 1.0) for name in trained} == pytest.approx(rates)
