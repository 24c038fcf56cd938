"""Contrastive embeddings: the losses, negatives that span the whole step, retrieval, and what is written."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from torch.nn import functional as F  # noqa: N812 - the name of the field
from transformers import AutoModel

from kivnun.data.conversation import Conversation, Message
from kivnun.data.encode import Encoder
from kivnun.data.packing import PackedBatch, pack
from kivnun.data.prepare import tokenize_splits
from kivnun.data.template import PromptTemplate
from kivnun.data.tokens import TokenizedRow, TokenTable, make_table
from kivnun.errors import UserError
from kivnun.methods import BaseModelName, load_tuned, make_method
from kivnun.models.attention import use_packed_attention
from kivnun.models.heads import Head, load_headed, pool_documents
from kivnun.models.load import load_tokenizer
from kivnun.models.sentence_folder import write_head
from kivnun.models.types import Model
from kivnun.recipe.methods import FullMethod, LoraMethod
from kivnun.recipe.objectives import ContrastiveObjective
from kivnun.recipe.schema import DataSection
from kivnun.recipe.training import TrainingSection
from kivnun.training.embed import embed_batch, embed_table, find_candidates, rank_candidates
from kivnun.training.loop import StepReport, fit, make_plan, seed_step
from kivnun.training.objectives.contrastive import Contrastive, margin_losses
from kivnun.training.optimizer import make_master_weights
from kivnun.training.plan_checks import check_plan
from kivnun.training.validation import mean_loss

HEAD = Head("embedding", pad_token_id=0)
IN_BATCH = ContrastiveObjective(temperature=0.1)
MARGIN = ContrastiveObjective(loss="margin", margin=3.0)


def make_pairs(num_rows: int, *, texts: int = 2, seed: int = 0, labels: Sequence[float] | None = None) -> TokenTable:
    """Rows whose texts begin with a token of their own, so that they can be told from each other."""
    random = np.random.default_rng(seed)
    documents = []
    for number in range(num_rows):
        for role in range(texts):
            first = 10 + number if role < 2 else 200 + number
            ids = [first, *random.integers(300, 390, size=int(random.integers(1, 9))).tolist()]
            documents.append(TokenizedRow(ids, [False] * len(ids)))
    return make_table(documents, documents_per_row=texts, labels=labels)


@pytest.fixture
def embedder(tiny_model_folder: Path) -> Model:
    model = load_headed(tiny_model_folder, HEAD, dtype=torch.float32)
    use_packed_attention(model)
    return model


def train(model: Model, table: TokenTable, objective: ContrastiveObjective, **fields: object) -> list[StepReport]:
    chosen = TrainingSection(**{"learning_rate": 0.01, "precision": "fp32", "epochs": 99, "max_steps": 3, **fields})
    weights, plan = make_master_weights(model, chosen), make_plan(table.lengths(), chosen)
    return list(fit(model, weights, table, chosen, plan=plan, objective=Contrastive(objective)))


def embed_alone(model: Model, table: TokenTable) -> torch.Tensor:
    """By transformers' own forward pass, one text at a time, gradients and all."""
    texts = [torch.from_numpy(table.input_ids(number).astype("int64")) for number in range(table.num_documents)]
    model.set_attn_implementation("sdpa")
    return torch.stack([model(input_ids=ids.unsqueeze(0)).last_hidden_state[0].mean(0) for ids in texts])


def info_nce(embeddings: torch.Tensor, texts: int) -> torch.Tensor:
    """The formula as printed, for texts that are all different: rows against the positives and negatives of all."""
    unit = F.normalize(embeddings, dim=1)
    anchors, positives = unit[0::texts], unit[1::texts]
    others = unit[[number for number in range(len(unit)) if number % texts]]
    right = (anchors * positives).sum(1) / 0.1
    return (torch.logsumexp(anchors @ others.T / 0.1, dim=1) - right).mean()


@pytest.mark.parametrize("texts", [2, 3])
def test_a_step_is_the_formula_over_all_its_rows_however_it_is_cut(tiny_model_folder: Path, texts: int):
    """Loss and gradient norm, against autograd on the texts one by one."""
    table = make_pairs(8, texts=texts)
    own = load_headed(tiny_model_folder, HEAD, dtype=torch.float32)
    expected = info_nce(embed_alone(own, table), texts)
    expected.backward()
    norm = float(torch.stack([each.grad.norm() for each in own.parameters() if each.grad is not None]).norm())
    for parts in (1, 2, 8):
        model = load_headed(tiny_model_folder, HEAD, dtype=torch.float32)
        use_packed_attention(model)
        sizes = {"batch_size": 8 // parts, "gradient_accumulation_steps": parts}
        [report] = train(model, table, IN_BATCH, max_steps=1, **sizes)
        assert report.loss == pytest.approx(float(expected.detach()), rel=1e-4)
        assert report.grad_norm == pytest.approx(norm, rel=1e-3)
        assert report.metrics["negatives"] == pytest.approx(8 * (texts - 1) - 1)


def test_a_step_with_dropout_has_the_gradient_of_its_own_random_numbers(tiny_model_folder: Path):
    """The texts are embedded twice, and the second time must draw what the first one drew."""
    table = make_pairs(6)
    batches = [pack(table, rows) for rows in ([0, 3], [1, 5, 2], [4])]
    gradients: list[dict[str, torch.Tensor]] = []
    for is_cached in (True, False):
        model = load_headed(tiny_model_folder, HEAD, dtype=torch.float32)
        method = make_method(LoraMethod(rank=4, dropout=0.5))
        method.prepare(model, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            for name, value in model.named_parameters():
                if name.endswith("lora_B"):
                    value.normal_(0, 0.3, generator=torch.Generator().manual_seed(1))
        use_packed_attention(model.train())
        total = add_cached(model, batches) if is_cached else add_plain(model, batches)
        gradients.append({name: value.grad for name, value in model.named_parameters() if value.requires_grad})
        gradients[-1]["total"] = torch.tensor(total)
    for name, value in gradients[1].items():
        torch.testing.assert_close(gradients[0][name], value, atol=1e-5, rtol=1e-3)
    assert float(gradients[1]["total"]) > 0


def add_cached(model: Model, batches: Sequence[PackedBatch]) -> float:
    objective = Contrastive(IN_BATCH)
    seed_step(7, 0)
    prepared = objective.prepare_step(model, batches)
    seed_step(7, 0)
    total = 0.0
    for batch, known in zip(batches, prepared, strict=True):
        loss = objective.loss(model, batch, known)
        loss.total.backward()
        total += loss.reported
    return total


def add_plain(model: Model, batches: Sequence[PackedBatch]) -> float:
    """One graph for all batches, which is what caching saves."""
    seed_step(7, 0)
    found: dict[int, torch.Tensor] = {}
    for batch in batches:
        found |= dict(zip(batch.documents, embed_batch(model, batch, "mean"), strict=True))
    loss = info_nce(torch.stack([found[number] for number in sorted(found)]), 2) * 6
    loss.backward()
    return float(loss.detach())


def test_what_says_the_same_is_no_negative():
    """Texts: equal positives, an equal anchor, a text that is the anchor of another row."""
    rows = [(b"a", b"p"), (b"b", b"p"), (b"a", b"q"), (b"c", b"b"), (b"d", b"e")]
    found = find_candidates([text for row in rows for text in row], 2)
    assert found.own.tolist() == [0, 1, 2, 3, 4]
    expected = [
        [0, 1, 1, 0, 0],  # row 1 has the same positive; row 2 has the same anchor
        [1, 0, 0, 1, 0],  # the text of row 3 is this anchor
        [1, 1, 0, 0, 0],  # p belongs to this anchor by row 0, wherever else it stands
        [0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0],
    ]
    assert found.excluded(torch.arange(5)).int().tolist() == expected
    assert found.excluded(torch.tensor([3, 1])).int().tolist() == [expected[3], expected[1]]


def test_hard_negatives_count_unless_they_say_what_belongs_to_the_row():
    rows = [(b"a", b"p", b"n"), (b"a", b"q", b"p"), (b"c", b"n", b"m")]
    found = find_candidates([text for row in rows for text in row], 3)
    assert found.texts.tolist() == [1, 2, 4, 5, 7, 8]
    assert found.own.tolist() == [0, 2, 4]
    assert found.excluded(torch.arange(3)).int().tolist() == [
        [0, 0, 1, 1, 0, 0],  # q belongs to the same anchor; p again
        [1, 0, 0, 1, 0, 0],  # p is this row's own negative, but belongs to its anchor by row 0
        [0, 1, 0, 0, 0, 0],
    ]


def test_a_row_alone_with_its_equals_has_nothing_to_learn(embedder: Model):
    one = make_pairs(1)
    documents = [one.input_ids(number).tolist() for number in (0, 1, 0, 1)]
    table = make_table((TokenizedRow(ids, [False] * len(ids)) for ids in documents), documents_per_row=2)
    batch = pack(table, [0, 1])
    [known] = Contrastive(IN_BATCH).prepare_step(embedder, [batch])
    loss = Contrastive(IN_BATCH).loss(embedder, batch, known)
    assert loss.reported == pytest.approx(0, abs=1e-6)
    assert loss.metrics["negatives"] == 0


@pytest.mark.parametrize("parts", [1, 4])
def test_the_margin_loss_is_the_one_printed(tiny_model_folder: Path, parts: int):
    labels = [0.0, 1.0, 1.0, 0.0]
    table = make_pairs(4, labels=labels)
    own = load_headed(tiny_model_folder, HEAD, dtype=torch.float32)
    embeddings, label = embed_alone(own, table).detach(), torch.tensor(labels)
    distance = F.pairwise_distance(embeddings[0::2], embeddings[1::2])
    expected = torch.mean(
        (1 - label) * torch.pow(distance, 2) + label * torch.pow(torch.clamp(3.0 - distance, min=0), 2)
    )
    model = load_headed(tiny_model_folder, HEAD, dtype=torch.float32)
    use_packed_attention(model)
    [report] = train(model, table, MARGIN, max_steps=1, batch_size=4 // parts, gradient_accumulation_steps=parts)
    assert report.loss == pytest.approx(float(expected), rel=1e-4)
    use_packed_attention(own)
    measured = mean_loss(own, table, batch_tokens=20, objective=Contrastive(MARGIN))
    assert measured["loss"] == pytest.approx(float(expected), rel=1e-4)


def test_unlike_pairs_are_pushed_apart_only_up_to_the_margin():
    pairs = torch.tensor([[0.0, 0.0], [0.0, 2.0], [0.0, 0.0], [0.0, 5.0]])
    assert margin_losses(pairs, torch.ones(2), 3.0).tolist() == pytest.approx([1.0, 0.0], abs=1e-4)
    assert margin_losses(pairs, torch.zeros(2), 3.0).tolist() == pytest.approx([4.0, 25.0], abs=1e-3)


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_pooling_keeps_to_each_documents_own_states(pooling: str):
    hidden = torch.arange(12, dtype=torch.float32).view(6, 2)
    pooled = pool_documents(hidden, [1, 2, 3], pooling)
    mean, last = [[0, 1], [3, 4], [8, 9]], [[0, 1], [4, 5], [10, 11]]
    assert pooled.tolist() == (mean if pooling == "mean" else last)


def test_embeddings_are_those_of_texts_alone_in_the_order_of_the_table(embedder: Model):
    table = make_pairs(7)
    packed = embed_table(embedder, table, pooling="mean", batch_tokens=40)
    with torch.no_grad():
        torch.testing.assert_close(packed, embed_alone(embedder, table), atol=1e-5, rtol=1e-4)


def test_a_tie_is_no_hit():
    """Embeddings that collapsed into one would else be perfect."""
    table = make_pairs(3)
    texts = [table.input_ids(number).tobytes() for number in range(6)]
    ranking = rank_candidates(torch.ones(6, 4), find_candidates(texts, 2), "cosine")
    assert (ranking.ranks, ranking.recall_at_1, ranking.mean_reciprocal_rank) == ([3, 3, 3], 0.0, pytest.approx(1 / 3))
    assert all(nearest != own for own, nearest in enumerate(ranking.nearest))


@pytest.mark.parametrize(("similarity", "ranks"), [("cosine", [1, 1]), ("euclidean", [2, 1])])
def test_ranks_are_by_the_similarity_that_was_trained(similarity: str, ranks: list[int]):
    embeddings = torch.tensor([[1.0, 0.0], [9.0, 0.0], [1.0, 0.1], [2.0, 0.3]])
    found = find_candidates([b"a", b"p", b"b", b"q"], 2)
    assert rank_candidates(embeddings, found, similarity).ranks == ranks


@pytest.mark.parametrize("objective", [IN_BATCH, MARGIN])
def test_training_brings_pairs_together(embedder: Model, objective: ContrastiveObjective):
    labels = None if objective.loss == "in_batch" else [0.0] * 12
    table = make_pairs(12, labels=labels)
    if labels is not None:  # unlike pairs: each anchor with the next row's text
        documents = [table.input_ids(number).tolist() for number in range(24)]
        documents += [documents[(number + 3 * (number % 2)) % 24] for number in range(24)]
        table = make_table(
            (TokenizedRow(ids, [False] * len(ids)) for ids in documents),
            documents_per_row=2,
            labels=[0] * 12 + [1] * 12,
        )
    before = mean_loss(embedder, table, batch_tokens=99, objective=Contrastive(objective))
    train(embedder, table, objective, max_steps=25, batch_size=24, schedule="constant", warmup_ratio=0.0)
    after = mean_loss(embedder, table, batch_tokens=50, objective=Contrastive(objective))
    assert after["loss"] < 0.5 * before["loss"]
    assert after["recall_at_1"] > max(0.8, before["recall_at_1"])
    assert after["mrr"] >= after["recall_at_1"]


def test_ranks_are_left_out_where_no_pair_is_alike(embedder: Model):
    unlike, mixed = make_pairs(3, labels=[1, 1, 1]), make_pairs(3, labels=[1, 0, 1])
    measured = [mean_loss(embedder, table, batch_tokens=99, objective=Contrastive(MARGIN)) for table in (unlike, mixed)]
    assert [set(metrics) for metrics in measured] == [{"loss"}, {"loss", "recall_at_1", "mrr"}]
    settings = TrainingSection(objective=MARGIN, best_metric="recall_at_1")
    plan = make_plan(mixed.lengths(), settings)
    assert check_plan(plan, unlike, mixed, settings) == []
    assert check_plan(plan, unlike, unlike, settings.model_copy(update={"best_metric": "loss"})) == []
    with pytest.raises(UserError, match="recall_at_1 is asked of pairs that are alike"):
        check_plan(plan, mixed, unlike, settings)


@pytest.mark.parametrize(("batch_tokens", "num_alone"), [(1, 4), (24, 1), (1000, 0)])
def test_steps_of_one_row_are_counted_and_a_training_of_nothing_else_is_refused(batch_tokens: int, num_alone: int):
    documents = [TokenizedRow([place] * size, [False] * size) for place, size in enumerate([4, 4, 4, 4, 4, 4, 20, 4])]
    table, with_negatives = make_table(documents, documents_per_row=2), make_pairs(4, texts=3)
    settings = TrainingSection(objective=IN_BATCH, epochs=1, batch_tokens=batch_tokens)
    plan = make_plan(table.lengths(), settings)
    if num_alone == plan.num_steps:
        with pytest.raises(UserError, match="every step has one row alone"):
            check_plan(plan, table, table, settings)
    else:
        notes = check_plan(plan, table, table, settings)
        said = f"{num_alone} of {plan.num_steps} steps have one row alone"
        assert [note.partition(" and")[0] for note in notes] == ([said] if num_alone else [])
    assert check_plan(plan, with_negatives, table, settings) == []


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
@pytest.mark.parametrize("kind", ["full", "lora"])
@pytest.mark.parametrize("objective", [IN_BATCH, MARGIN.model_copy(update={"pooling": "last"})])
def test_the_folder_gives_equal_embeddings_elsewhere(
    tiny_model_folder: Path, tmp_path: Path, kind: str, objective: ContrastiveObjective
):
    """transformers or PEFT load the weights, and the pooling is computed as sentence-transformers' files say."""
    table = make_pairs(6)
    similarity = "cosine" if objective.loss == "in_batch" else "euclidean"
    head = Head("embedding", 0, pooling=objective.pooling, similarity=similarity, max_seq_len=77)
    model = load_headed(tiny_model_folder, head, dtype=torch.float32)
    method = make_method(FullMethod() if kind == "full" else LoraMethod(rank=4))
    method.prepare(model, generator=torch.Generator().manual_seed(0))
    use_packed_attention(model)
    train(model, table, objective)
    tokenizer = load_tokenizer(tiny_model_folder)
    method.export(model, tmp_path, base_model=BaseModelName("tiny", tiny_model_folder))
    tokenizer.save_pretrained(tmp_path)
    write_head(tmp_path, head, tokenizer, hidden_size=32)
    expected = embed_table(model, table, pooling=objective.pooling, batch_tokens=99)
    tuned = load_tuned(tiny_model_folder, tmp_path, dtype=torch.float32)
    use_packed_attention(tuned)
    again = embed_table(tuned, table, pooling=objective.pooling, batch_tokens=99)
    torch.testing.assert_close(again, expected, atol=1e-6, rtol=1e-5)
    theirs = AutoModel.from_pretrained(tmp_path if kind == "full" else tiny_model_folder, dtype=torch.float32)
    theirs = theirs if kind == "full" else PeftModel.from_pretrained(theirs, tmp_path)
    given = embed_by_files(theirs.eval(), tmp_path, tokenizer, table)
    wanted = F.normalize(expected, dim=1) if similarity == "cosine" else expected
    torch.testing.assert_close(given, wanted, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def embed_by_files(model: torch.nn.Module, folder: Path, tokenizer, table: TokenTable) -> torch.Tensor:
    """What sentence-transformers does with such a folder: the modules in turn, on one padded batch."""
    modules = [each["type"].rpartition(".")[2] for each in json.loads((folder / "modules.json").read_text())]
    assert json.loads((folder / "sentence_bert_config.json").read_text())["max_seq_length"] == 77
    batch = tokenizer.pad({"input_ids": [table.input_ids(n).tolist() for n in range(12)]}, return_tensors="pt")
    hidden = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
    mask = batch["attention_mask"].unsqueeze(2)
    assert modules[:2] == ["Transformer", "Pooling"]
    pooling = json.loads((folder / "1_Pooling" / "config.json").read_text())
    assert pooling["word_embedding_dimension"] == hidden.shape[2]
    [mode] = [name for name, value in pooling.items() if value is True and name.startswith("pooling_mode")]
    if mode == "pooling_mode_mean_tokens":
        vectors = (hidden * mask).sum(1) / mask.sum(1)
    else:
        assert mode == "pooling_mode_lasttoken"
        vectors = hidden[torch.arange(12), mask[:, :, 0].sum(1) - 1]
    similarity = json.loads((folder / "config_sentence_transformers.json").read_text())["similarity_fn_name"]
    assert modules[2:] == (["Normalize"] if similarity == "cosine" else [])
    return F.normalize(vectors, dim=1) if modules[2:] else vectors


def row(*texts: str, **fields: str) -> Conversation:
    turns = (Message("user", texts[0], trained=False), Message("assistant", texts[1], trained=True))
    rejected = Message("assistant", texts[2], trained=False) if len(texts) > 2 else None
    return Conversation(turns, fields, "pairs.jsonl:1", rejected=rejected)


def prepare(tokenizer, rows: list[Conversation], objective: ContrastiveObjective, **data: object):
    section = DataSection(**{"train": "x", "text_template": "{a}{b}", **data})
    splits = {"train": rows, "validation": [], "test": []}
    template = PromptTemplate("chat")
    return tokenize_splits(template, splits, section, Encoder(tokenizer), objective)


def test_a_row_is_its_texts_each_alone_without_a_chat_template(tiny_tokenizer):
    encoder = Encoder(tiny_tokenizer)
    prepared = prepare(tiny_tokenizer, [row("a dog", "an animal", "a stone")], IN_BATCH)
    table = prepared.table("train")
    assert (table.documents_per_row, len(table), table.num_trained, table.labels) == (3, 1, 0, None)
    texts = ["a dog", "an animal", "a stone"]
    assert [table.input_ids(number).tolist() for number in range(3)] == [encoder.encode_prompt(text) for text in texts]


def test_columns_give_the_negative_and_the_label_of_a_pair(tiny_tokenizer):
    named = ContrastiveObjective(negative="wrong")
    table = prepare(tiny_tokenizer, [row("a", "b", wrong="c")], named).table("train")
    assert table.input_ids(2).tolist() == Encoder(tiny_tokenizer).encode_prompt("c")
    labelled = MARGIN.model_copy(update={"pair_label": "unlike"})
    rows = [row("a", "b", unlike=value) for value in ("0", "1", "false", "true")]
    assert prepare(tiny_tokenizer, rows, labelled).table("train").labels.tolist() == [0, 1, 0, 1]
    assert prepare(tiny_tokenizer, rows, MARGIN).table("train").labels.tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize(
    ("rows", "objective", "words"),
    [
        ([row("a", "b"), row("a", " ")], IN_BATCH, "the positive is empty"),
        ([row("a", "b", "c"), row("a", "b")], IN_BATCH, "there is no negative, as other rows have"),
        ([row("a", "b", wrong="c"), row("a", "b")], ContrastiveObjective(negative="wrong"), "the negative is empty"),
        ([row("a", "b", y="2")], MARGIN.model_copy(update={"pair_label": "y"}), "y is '2'; it must be 1"),
        ([row("a", "b", y="1")], MARGIN.model_copy(update={"pair_label": "y"}), "no training pair is alike"),
        ([row("a<|endoftext|>", "b")], IN_BATCH, "special token"),
        ([row("a", "b", "c<|endoftext|>")], IN_BATCH, "special token"),
    ],
)
def test_rows_that_are_no_pairs_are_refused(tiny_tokenizer, rows, objective, words: str):
    with pytest.raises(UserError) as caught:
        prepare(tiny_tokenizer, rows, objective)
    assert words in str(caught.value)


def test_the_longest_text_of_a_row_counts(tiny_tokenizer):
    rows = [row("short", "word " * 20), row("short", "short")]
    with pytest.raises(UserError, match="longer than"):
        prepare(tiny_tokenizer, rows, IN_BATCH, max_seq_len=16)
    prepared = prepare(tiny_tokenizer, rows, IN_BATCH, max_seq_len=16, on_too_long="drop")
    assert (len(prepared.splits["train"]), dict(prepared.dropped)) == (1, {"longer than max_seq_len": 1})
