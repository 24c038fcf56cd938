"""Sequence classification: the loss, what every method trains and writes, and what other tools make of the folders."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification

from kivnun.data.conversation import Conversation, Message
from kivnun.data.encode import Encoder
from kivnun.data.packing import iterate_in_order, pack
from kivnun.data.prepare import tokenize_splits
from kivnun.data.template import PromptTemplate
from kivnun.data.tokens import TokenizedRow, TokenTable, make_table
from kivnun.errors import UserError
from kivnun.evaluation.metrics import macro_f1 as macro_f1_of_texts
from kivnun.methods import BaseModelName, load_tuned, make_method
from kivnun.models.attention import use_packed_attention
from kivnun.models.heads import Head, load_headed, read_head
from kivnun.models.load import load_model, load_tokenizer
from kivnun.models.resolve import resolve_model
from kivnun.models.sentence_folder import write_head
from kivnun.models.types import Model
from kivnun.recipe.methods import (
    BottleneckMethod,
    FullMethod,
    Ia3Method,
    LoraMethod,
    Method,
    PartialMethod,
    PrefixMethod,
    PromptMethod,
    QloraMethod,
)
from kivnun.recipe.objectives import ClassificationObjective
from kivnun.recipe.schema import DataSection, Recipe
from kivnun.recipe.training import TrainingSection
from kivnun.trainee import require_trainable
from kivnun.training.classify import class_log_probabilities
from kivnun.training.loop import StepReport, fit, make_plan
from kivnun.training.objectives.classification import Classification, macro_f1
from kivnun.training.optimizer import make_master_weights
from kivnun.training.validation import mean_loss

LABELS = ("fear", "joy", "sadness")
HEAD = Head("classification", pad_token_id=0, labels=LABELS, seed=5, pooling="last")
METHODS: dict[str, Method] = {
    "full": FullMethod(),
    "partial": PartialMethod(last_layers=1),
    "lora": LoraMethod(rank=4, alpha=8),
    "dora": LoraMethod(rank=4, alpha=8, use_dora=True),
    "qlora": QloraMethod(rank=4, alpha=8),
    "adapter": BottleneckMethod(bottleneck_size=4),
    "ia3": Ia3Method(),
    "prefix": PrefixMethod(num_virtual_tokens=3),
    "prompt": PromptMethod(num_virtual_tokens=3),
}


@pytest.fixture(scope="module")
def table() -> TokenTable:
    """Rows whose last token tells the class."""
    random = np.random.default_rng(0)
    lengths = random.integers(1, 14, size=30)
    classes = random.integers(0, 3, size=30)
    rows = [
        [*random.integers(9, 390, size=length).tolist(), 4 + int(number)]
        for length, number in zip(lengths, classes, strict=True)
    ]
    documents = [TokenizedRow(ids, [False] * len(ids)) for ids in rows]
    return make_table(documents, labels=classes.tolist())


@pytest.fixture
def classifier(tiny_model_folder: Path) -> Model:
    return load_headed(tiny_model_folder, HEAD, dtype=torch.float32)


def train(model: Model, table: TokenTable, **fields: object) -> list[StepReport]:
    chosen = TrainingSection(
        **{"learning_rate": 0.01, "batch_tokens": 300, "precision": "fp32", "epochs": 99, "max_steps": 3, **fields}
    )
    use_packed_attention(model)
    weights, plan = make_master_weights(model, chosen), make_plan(table.lengths(), chosen)
    return list(fit(model, weights, table, chosen, plan=plan, objective=Classification()))


def logits_alone(model: Model, table: TokenTable) -> torch.Tensor:
    """By transformers' own forward pass, one row at a time."""
    rows = [torch.from_numpy(table.input_ids(row).astype("int64")).unsqueeze(0) for row in range(len(table))]
    with torch.no_grad():
        return torch.cat([model(input_ids=ids).logits for ids in rows])


def test_the_loss_is_transformers_own_on_rows_one_by_one(classifier: Model, table: TokenTable):
    expected = logits_alone(classifier, table).log_softmax(1)
    true = torch.from_numpy(table.labels).long()
    use_packed_attention(classifier)
    total, right = 0.0, 0.0
    for batch in iterate_in_order(table, batch_tokens=60):
        assert Classification().count(batch) == len(batch.rows)
        loss = Classification().loss(classifier, batch, None)
        total += loss.reported
        right += loss.metrics["accuracy"]
    assert total == pytest.approx(-float(expected[torch.arange(len(true)), true].sum()), rel=1e-5)
    assert right == int((expected.argmax(1) == true).sum())
    measured = mean_loss(classifier, table, batch_tokens=60, objective=Classification())
    assert measured["loss"] == pytest.approx(total / len(table), rel=1e-5)
    assert measured["accuracy"] == pytest.approx(right / len(table))
    torch.testing.assert_close(class_log_probabilities(classifier, table, batch_tokens=60), expected)


def test_packed_rows_out_of_order_keep_their_labels(classifier: Model, table: TokenTable):
    """A batch is packed shortest first while its labels are in the order of its rows."""
    use_packed_attention(classifier)
    rows = [17, 3, 25, 8]
    assert pack(table, rows).documents != tuple(sorted(rows))
    together = Classification().loss(classifier, pack(table, rows), None).reported
    alone = sum(Classification().loss(classifier, pack(table, [row]), None).reported for row in rows)
    assert together == pytest.approx(alone, rel=1e-5)


@pytest.mark.parametrize("parts", [2, 5])
def test_splitting_a_batch_changes_nothing(tiny_model_folder: Path, table: TokenTable, parts: int):
    whole, split = (load_headed(tiny_model_folder, HEAD, dtype=torch.float32) for _ in range(2))
    one = train(whole, table)
    other = train(split, table, batch_tokens=300 // parts, gradient_accumulation_steps=parts)
    for before, after in zip(one, other, strict=True):
        assert after.loss == pytest.approx(before.loss, rel=1e-4)
        assert after.grad_norm == pytest.approx(before.grad_norm, rel=1e-3)
        assert after.metrics == pytest.approx(before.metrics)


def test_the_head_is_seeded_and_the_rest_is_the_base_model(tiny_model_folder: Path, classifier: Model):
    again = load_headed(tiny_model_folder, HEAD, dtype=torch.float32)
    other = load_headed(tiny_model_folder, Head("classification", 0, LABELS, seed=6), dtype=torch.float32)
    assert torch.equal(classifier.score.weight, again.score.weight)
    assert not torch.equal(classifier.score.weight, other.score.weight)
    assert 0.015 < float(classifier.score.weight.detach().std()) < 0.025
    base = dict(load_model(tiny_model_folder, dtype=torch.float32).named_parameters())
    assert [name for name, _ in classifier.named_parameters() if name not in base] == ["score.weight"]
    assert all(torch.equal(base[name], value) for name, value in classifier.named_parameters() if name in base)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_trains_the_head_whole_and_reads_it_back(
    tiny_model_folder: Path, table: TokenTable, tmp_path: Path, name: str
):
    model = load_headed(tiny_model_folder, HEAD, dtype=torch.float32)
    method = make_method(METHODS[name])
    method.prepare(model, generator=torch.Generator().manual_seed(0))
    before = model.score.weight.detach().clone()
    assert model.score.weight.requires_grad
    assert type(model.score) is torch.nn.Linear
    train(model, table, max_steps=4)
    assert not torch.equal(model.score.weight, before)
    export(method, model, tiny_model_folder, tmp_path)
    loaded = load_tuned(tiny_model_folder, tmp_path, dtype=torch.float32)
    assert torch.equal(loaded.score.weight, model.score.weight)
    assert read_head(tmp_path) == HEAD
    if name != "qlora":  # what is written is for the base model's own weights, not for those of 4 bits
        use_packed_attention(loaded)
        given, expected = (class_log_probabilities(each, table, batch_tokens=99) for each in (loaded, model))
        torch.testing.assert_close(given, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["full", "partial"])
def test_transformers_loads_a_whole_classifier_with_equal_logits(
    tiny_model_folder: Path, table: TokenTable, tmp_path: Path, name: str
):
    model = load_headed(tiny_model_folder, HEAD, dtype=torch.float32)
    method = make_method(METHODS[name])
    method.prepare(model, generator=torch.Generator().manual_seed(0))
    train(model, table)
    export(method, model, tiny_model_folder, tmp_path)
    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path, dtype=torch.float32).eval()
    assert theirs.config.id2label == dict(enumerate(LABELS))
    assert theirs.config.label2id == {label: number for number, label in enumerate(LABELS)}
    expected = class_log_probabilities(model, table, batch_tokens=99)
    torch.testing.assert_close(logits_alone(theirs, table).log_softmax(1), expected, atol=1e-5, rtol=1e-4)
    # Padded to a batch, as a user of transformers would.
    tokenizer = load_tokenizer(tmp_path)
    texts = tokenizer.batch_decode([table.input_ids(row).tolist() for row in range(4)])
    padded = tokenizer(texts, padding=True, return_tensors="pt")
    alone = [tokenizer(text, return_tensors="pt") for text in texts]
    with torch.no_grad():
        together = theirs(**{key: padded[key] for key in ("input_ids", "attention_mask")}).logits
        one_by_one = torch.cat([theirs(input_ids=each["input_ids"]).logits for each in alone])
    torch.testing.assert_close(together, one_by_one, atol=1e-5, rtol=1e-4)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
@pytest.mark.parametrize("name", ["lora", "dora"])
def test_peft_loads_a_classifiers_adapter_with_equal_logits(
    tiny_model_folder: Path, table: TokenTable, tmp_path: Path, name: str
):
    model = load_headed(tiny_model_folder, HEAD, dtype=torch.float32)
    method = make_method(METHODS[name])
    method.prepare(model, generator=torch.Generator().manual_seed(0))
    train(model, table)
    export(method, model, tiny_model_folder, tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["task_type"] == "SEQ_CLS"
    base = AutoModelForSequenceClassification.from_pretrained(tiny_model_folder, num_labels=3, dtype=torch.float32)
    theirs = PeftModel.from_pretrained(base, tmp_path).eval()
    expected = class_log_probabilities(model, table, batch_tokens=99)
    torch.testing.assert_close(logits_alone(theirs, table).log_softmax(1), expected, atol=1e-5, rtol=1e-4)


def test_training_learns_the_classes(classifier: Model, table: TokenTable):
    reports = train(classifier, table, max_steps=30, learning_rate=0.02, schedule="constant", warmup_ratio=0.0)
    assert reports[0].loss == pytest.approx(np.log(3), rel=0.05)
    measured = mean_loss(classifier, table, batch_tokens=99, objective=Classification())
    assert measured["accuracy"] == measured["macro_f1"] == 1.0


def test_macro_f1_is_that_of_the_evaluation():
    random = np.random.default_rng(2)
    answered, true = (random.integers(0, 3, size=40) for _ in range(2))
    names = [str(number) for number in range(3)]
    texts = [[names[number] for number in each] for each in (answered, true)]
    assert macro_f1(answered, true, 3) == pytest.approx(macro_f1_of_texts(*texts, names))
    # A class that is neither true nor answered is left out.
    assert macro_f1(np.array([0, 1]), np.array([0, 1]), 3) == 1.0


def row(prompt: str, label: str, where: str = "rows.jsonl:1") -> Conversation:
    turns = (Message("user", prompt, trained=False), Message("assistant", label, trained=True))
    return Conversation(turns, {"text": prompt, "label": label}, where)


def prepare(tokenizer, train_rows: list[Conversation], test_rows: list[Conversation], **data: object):
    splits = {"train": train_rows, "validation": [], "test": test_rows}
    template = PromptTemplate("text", "{text} ->", " {label}")
    section = DataSection(**{"train": "x", "text_template": "{text} -> {label}", **data})
    return tokenize_splits(template, splits, section, Encoder(tokenizer), ClassificationObjective())


def test_a_row_is_its_prompt_alone_and_its_label_a_number_in_the_order_of_the_alphabet(tiny_tokenizer):
    encoder = Encoder(tiny_tokenizer)
    rows = [row("I am happy ->", " joy"), row("He is gone ->", " fear"), row("So nice ->", "joy ")]
    prepared = prepare(tiny_tokenizer, rows, [row("Well ->", " fear")])
    assert prepared.labels == ("fear", "joy")
    table = prepared.table("train")
    assert table.labels.tolist() == [1, 0, 1]
    assert table.input_ids(0).tolist() == encoder.encode_prompt("I am happy ->")
    assert (table.num_trained, len(table)) == (0, 3)
    assert prepared.splits["train"][0].prompt_ids == encoder.encode_prompt("I am happy ->")


@pytest.mark.parametrize(
    ("train_labels", "test_label", "code", "words"),
    [
        (("joy", "fear"), "anger", "label-unknown", "'anger' in the test split"),
        (("joy", "joy"), "joy", "nothing-to-learn", "the same label, 'joy'"),
    ],
)
def test_labels_that_cannot_be_learnt_are_refused(tiny_tokenizer, train_labels, test_label: str, code: str, words: str):
    rows = [row(f"text {number} ->", label) for number, label in enumerate(train_labels)]
    with pytest.raises(UserError) as caught:
        prepare(tiny_tokenizer, rows, [row("other ->", test_label, "rows.jsonl:9")])
    assert caught.value.code == code
    assert words in str(caught.value)


def test_a_prompt_that_ends_with_padding_is_refused(tiny_tokenizer):
    """In a template, where it is no word of the data."""
    rows = [replace(row("a<|endoftext|>", label), fields={"text": "a", "label": label}) for label in ("joy", "fear")]
    splits = {"train": rows, "validation": [], "test": []}
    template = PromptTemplate("text", "{text}<|endoftext|>", "{label}")
    section = DataSection(train="x", text_template="{text}<|endoftext|>{label}")
    with pytest.raises(UserError, match="pads texts"):
        tokenize_splits(template, splits, section, Encoder(tiny_tokenizer), ClassificationObjective())


def test_the_answer_does_not_count_for_the_longest_row(tiny_tokenizer):
    rows = [row("I ->", " a very long label that is no part of what the model reads, " * 3), row("He ->", " joy")]
    assert len(prepare(tiny_tokenizer, rows, [], max_seq_len=8).splits["train"]) == 2


def export(method, model: Model, base: Path, folder: Path) -> None:
    method.export(model, folder, base_model=BaseModelName("tiny", base))
    tokenizer = load_tokenizer(base)
    tokenizer.save_pretrained(folder)
    write_head(folder, HEAD, tokenizer, hidden_size=32)


@pytest.mark.parametrize(
    "method", [LoraMethod(rank=2, modules_to_save=("score",)), PartialMethod(modules=("score", "norm"))], ids=str
)
def test_the_head_can_be_named_by_a_recipe(tiny_model_folder: Path, method: Method):
    data = DataSection(train="x", text_template="{a}{b}")
    training = TrainingSection(objective=ClassificationObjective())
    recipe = Recipe(base_model=str(tiny_model_folder), data=data, method=method, training=training)
    require_trainable(recipe, resolve_model(str(tiny_model_folder)))
    other = recipe.model_copy(update={"training": TrainingSection()})
    with pytest.raises(UserError, match="score"):
        require_trainable(other, resolve_model(str(tiny_model_folder)))
