"""Conversations become a data set that can be trained on, or an error that says why not.

Nothing is written here: `reading` reads and cuts the rows of a recipe, `tokenize_splits` turns them into tokens.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from kivnun.data.chat import row_texts
from kivnun.data.conversation import Conversation
from kivnun.data.encode import Encoder
from kivnun.data.grouping import asked_text
from kivnun.data.labels import collect_classes, read_label
from kivnun.data.mismatched import add_mismatched
from kivnun.data.pairs import PREFERENCE_KINDS, TEST, are_pairs, arrange_rows, require_different, with_rejected
from kivnun.data.sources import first_problems
from kivnun.data.template import PromptTemplate, render
from kivnun.data.text_pairs import encode_pairs, read_pair_label, require_pairs
from kivnun.data.tokens import TokenizedRow, TokenTable, make_table
from kivnun.errors import UserError
from kivnun.recipe.objectives import (
    ClassificationObjective,
    ContrastiveObjective,
    KtoObjective,
    Objective,
    SupervisedObjective,
)
from kivnun.recipe.schema import DataSection

BATCH_ROWS = 1000
SUPERVISED = SupervisedObjective()


@dataclass(frozen=True)
class PreparedRow:
    """A row, tokenised.

    Attributes:
        conversation: The row.
        tokens: Its tokens; of a preference, those with the preferred answer.
        others: The further documents that are learnt together with it, such as the one with the rejected answer.
        label: What the objective is told of it, such as its class.
    """

    conversation: Conversation
    tokens: TokenizedRow
    others: tuple[TokenizedRow, ...] = ()
    label: float | None = None

    @property
    def prompt_ids(self) -> list[int]:
        """The ids before the last trained stretch, or all where none is: what the model is asked in an evaluation."""
        trained = self.tokens.trained
        if True not in trained:
            return self.tokens.input_ids
        first = self.last_trained
        while first > 0 and trained[first - 1]:
            first -= 1
        return self.tokens.input_ids[:first]

    @property
    def last_trained(self) -> int:
        """Position of the last trained token."""
        return len(self.tokens.trained) - 1 - self.tokens.trained[::-1].index(True)


@dataclass(frozen=True)
class PreparedData:
    """The splits of a data set and what happened on the way.

    Attributes:
        template: How rows were written.
        splits: Rows by split name.
        dropped: How many rows were left out, by reason; said aloud, never silent.
        repeated: How many rows stand twice, within the training rows or across splits; kept, and said aloud.
        stop_ids: Tokens that end an answer.
        labels: Names of the classes of a classification, by number.
        adds_mismatched: Whether rows that are learnt from get a mismatched answer beside their own, as KTO needs it.
    """

    template: PromptTemplate
    splits: Mapping[str, list[PreparedRow]]
    dropped: Mapping[str, int]
    repeated: Mapping[str, int]
    stop_ids: frozenset[int]
    labels: tuple[str, ...] = ()
    adds_mismatched: bool = False

    def table(self, split: str) -> TokenTable:
        """The token table of a split."""
        rows = self.splits[split]
        documents_per_row = 1 + len(rows[0].others) if rows else 1
        labels = [row.label for row in rows if row.label is not None]
        documents = (document for row in rows for document in (row.tokens, *row.others))
        table = make_table(documents, documents_per_row=documents_per_row, labels=labels or None)
        return add_mismatched(table) if self.adds_mismatched and split != TEST else table

    def num_trained(self, split: str) -> int:
        """Tokens of a split that are learnt; of mismatched answers none is."""
        rows = self.splits[split]
        return sum(sum(document.trained) for row in rows for document in (row.tokens, *row.others))


def tokenize_splits(
    template: PromptTemplate,
    conversations: Mapping[str, list[Conversation]],
    data: DataSection,
    encoder: Encoder,
    objective: Objective = SUPERVISED,
) -> PreparedData:
    """Tokenise rows that were read, windows for documents, and refuse or count what is too long.

    Args:
        template: How rows are written.
        conversations: Rows by split.
        data: The recipe's `data` section.
        encoder: The model's tokenizer.
        objective: The recipe's `training.objective`, which says what documents a row is made of.

    Raises:
        UserError: `answer-cut`, `nothing-to-learn`, `data-field` for special tokens in the rows, `messages-invalid`
            where the chat template does not fit, or what the objective cannot learn.
    """
    _require_plain_text(conversations, template, encoder)
    conversations, left_out = arrange_rows(conversations, objective.kind)
    shape = _choose_shape(conversations, template, encoder, objective)
    splits: dict[str, list[PreparedRow]] = {}
    too_long: list[str] = []
    for name, part in conversations.items():
        splits[name] = []
        for row in shape.prepare(part):
            conversation, tokens = row.conversation, row.tokens
            longest = max(len(document.input_ids) for document in (tokens, *row.others))
            if template.kind == "document":
                windows = _cut_windows(tokens, data.max_seq_len)
                repeats = data.repeat.get(conversation.fields.get("source", ""), 1) if name == "train" else 1
                splits[name] += [PreparedRow(conversation, window) for window in windows] * repeats
            elif longest > data.max_seq_len:
                too_long.append(f"{conversation.where}: {longest} tokens in the {name} split")
            else:
                splits[name].append(row)
    emptied = [name for name, part in conversations.items() if part and not splits[name]]
    if too_long and (data.on_too_long == "refuse" or emptied):
        rows = f"every row of the {emptied[0]} split is" if emptied else f"{len(too_long)} row(s) are"
        raise UserError(
            "answer-cut",
            f"{rows} longer than data.max_seq_len = {data.max_seq_len}; the answers would be cut",
            details=first_problems(too_long),
            hint="raise data.max_seq_len, shorten the rows, or set data.on_too_long: drop",
        )
    _require_learnt(splits, has_targets=shape.has_targets)
    if shape.classes:
        _require_readable(splits, encoder)
    _require_preferences(splits, objective)
    dropped = {**left_out, **({"longer than max_seq_len": len(too_long)} if too_long else {})}
    stop_ids = _find_stop_ids(splits, encoder, is_chat=template.kind == "chat" and shape.has_targets)
    repeated = _count_repeated(conversations, template)
    adds_mismatched = isinstance(objective, KtoObjective)
    return PreparedData(template, splits, dropped, repeated, stop_ids, shape.classes, adds_mismatched)


@dataclass(frozen=True)
class _Shape:
    """What documents a row is made of.

    Attributes:
        template: How rows are written.
        encoder: The model's tokenizer.
        objective: The recipe's `training.objective`.
        classes: Names of the classes of a classification.
    """

    template: PromptTemplate
    encoder: Encoder
    objective: Objective
    classes: tuple[str, ...] = ()

    @property
    def has_targets(self) -> bool:
        """Whether rows have tokens that are trained; a head learns from whole texts."""
        return not isinstance(self.objective, ClassificationObjective | ContrastiveObjective)

    def prepare(self, conversations: Sequence[Conversation]) -> Iterator[PreparedRow]:
        """The rows of a split."""
        if isinstance(self.objective, ContrastiveObjective):
            for start in range(0, len(conversations), BATCH_ROWS):
                batch = conversations[start : start + BATCH_ROWS]
                for row, texts in zip(batch, encode_pairs(batch, self.objective, self.encoder), strict=True):
                    yield PreparedRow(row, texts[0], texts[1:], read_pair_label(row, self.objective))
            return
        if self.objective.kind in PREFERENCE_KINDS and are_pairs(conversations):
            yield from self._prepare_preferences(conversations)
            return
        for row, tokens in _encode(conversations, self.template, self.encoder):
            if isinstance(self.objective, KtoObjective):
                yield PreparedRow(row, tokens, label=float(row.desirable is not False))
            elif isinstance(self.objective, ClassificationObjective):
                prompt = PreparedRow(row, tokens).prompt_ids
                document = TokenizedRow(prompt, [False] * len(prompt))
                yield PreparedRow(row, document, label=float(self.classes.index(read_label(row))))
            else:
                yield PreparedRow(row, tokens)

    def _prepare_preferences(self, conversations: Sequence[Conversation]) -> Iterator[PreparedRow]:
        """Rows of two documents: one ends with the preferred answer, the other with the rejected one."""
        others = _encode([with_rejected(row) for row in conversations], self.template, self.encoder)
        for (row, tokens), (_, other) in zip(_encode(conversations, self.template, self.encoder), others, strict=True):
            yield PreparedRow(row, tokens, (other,))


def _choose_shape(
    conversations: Mapping[str, list[Conversation]], template: PromptTemplate, encoder: Encoder, objective: Objective
) -> _Shape:
    classes: tuple[str, ...] = ()
    if isinstance(objective, ClassificationObjective):
        classes = collect_classes(conversations)
    elif isinstance(objective, ContrastiveObjective):
        require_pairs(conversations, objective, encoder)
    return _Shape(template, encoder, objective, classes)


def _encode(
    conversations: Sequence[Conversation], template: PromptTemplate, encoder: Encoder
) -> Iterator[tuple[Conversation, TokenizedRow]]:
    """Rows with their tokens, in batches that the tokenizer encodes with all cores."""
    for start in range(0, len(conversations), BATCH_ROWS):
        batch = conversations[start : start + BATCH_ROWS]
        segments = [render(row, template, end=encoder.end, render_chat=encoder.render_chat) for row in batch]
        yield from zip(batch, encoder.encode_batch(segments), strict=True)


def _require_plain_text(
    conversations: Mapping[str, list[Conversation]], template: PromptTemplate, encoder: Encoder
) -> None:
    """Refuse rows whose own words would become control tokens."""
    # Running text may hold turns that are written out, but not the sign that ends a document.
    is_document = template.kind == "document"
    problems = [
        f"{conversation.where}: {what} holds the special token {', '.join(found)}"
        for part in conversations.values()
        for conversation in part
        for what, text in _row_texts(conversation, template)
        if (found := [token for token in encoder.special_texts(text) if not is_document or token == encoder.end])
    ]
    if problems:
        raise UserError(
            "data-field",
            f"{len(problems)} text(s) of the rows would be read as signs of the model and not as text",
            details=first_problems(problems),
            hint="take the tokens out of these rows, or put a space into them",
        )


def _row_texts(conversation: Conversation, template: PromptTemplate) -> Iterable[tuple[str, str]]:
    """What a row brings to its text, with a name for each piece."""
    if template.kind == "text":
        return [(f"field {name!r}", conversation.fields[name]) for name in template.fields]
    if template.kind == "document":
        return [("the document", conversation.answer)]
    return row_texts(conversation)


def _require_learnt(splits: Mapping[str, list[PreparedRow]], *, has_targets: bool) -> None:
    """A row needs a trained token, or a head any token at all."""
    # The first token of a row is predicted by nothing, so that it does not count.
    empty = [
        row.conversation.where
        for part in splits.values()
        for row in part
        for tokens in ((row.tokens, *row.others) if has_targets else (row.tokens,))
        if not (any(tokens.trained[1:]) if has_targets else tokens.input_ids)
    ]
    if empty or not splits["train"]:
        what = "token that is trained" if has_targets else "token before the answer"
        raise UserError(
            "nothing-to-learn",
            f"{len(empty)} row(s) have no {what}" if empty else "the training split has no rows",
            details=first_problems(empty),
            hint="check that the answers are not empty and that the model's chat template writes them"
            if has_targets
            else "check that the prompt's fields are not empty",
        )


def _require_preferences(splits: Mapping[str, list[PreparedRow]], objective: Objective) -> None:
    if objective.kind in PREFERENCE_KINDS:
        rows = [row for part in splits.values() for row in part]
        require_different(
            (row.conversation.where, row.tokens.input_ids, other.input_ids) for row in rows for other in row.others
        )
    alone = [name for name, part in splits.items() if name != TEST and len(part) == 1]
    if objective.kind == "kto" and alone:
        raise UserError(
            "preference-invalid",
            f"the {alone[0]} split has one row, but kto compares each answer with that of another row",
            hint=f"give it at least two rows{'' if alone[0] == 'train' else ', or none'}",
        )


def _require_readable(splits: Mapping[str, list[PreparedRow]], encoder: Encoder) -> None:
    """A class is read at the last token that is no padding, so that no prompt may end with what padding is made of."""
    padded = [
        row.conversation.where for part in splits.values() for row in part if row.prompt_ids[-1] == encoder.pad_id
    ]
    if padded:
        raise UserError(
            "stage-unsupported",
            f"{len(padded)} prompt(s) end with the token that pads texts: a classifier could not tell their end",
            details=first_problems(padded),
            hint="let the prompt of the template end with text",
        )


def _find_stop_ids(splits: Mapping[str, list[PreparedRow]], encoder: Encoder, *, is_chat: bool) -> frozenset[int]:
    """End of text, and what the chat template ends an assistant's turn with."""
    stop_ids = {encoder.end_id}
    for row in (row for part in splits.values() for row in part if is_chat):
        end = row.tokens.input_ids[row.last_trained]
        if end not in encoder.tokenizer.added_tokens_decoder:
            raise UserError(
                "messages-invalid",
                f"{row.conversation.where}: the model's chat template closes an answer with no token of its own "
                f"(but with {encoder.tokenizer.decode([end])!r}), so that the model would never learn to stop",
                hint="use a model whose chat template closes every turn, or data.prompt_template and answer_template",
            )
        stop_ids.add(end)
    return frozenset(stop_ids)


def _count_repeated(conversations: Mapping[str, list[Conversation]], template: PromptTemplate) -> dict[str, int]:
    """Equal rows: harmless in moderation within train, a leak between train and what is measured on."""
    hashes = {name: [conversation.content_hash for conversation in part] for name, part in conversations.items()}
    counts = {"train rows that repeat an earlier one": len(hashes["train"]) - len(set(hashes["train"]))}
    for name, other in (("validation", "train"), ("test", "train"), ("test", "validation")):
        known = set(hashes[other])
        counts[f"{name} rows also in {other}"] = sum(digest in known for digest in hashes[name])
    inputs = {name: [asked_text(row, template.prompt_fields) for row in part] for name, part in conversations.items()}
    asked = set(inputs["train"]) - {""}
    for name in ("validation", "test"):
        same = sum(text in asked for text in inputs[name])
        # Rows that are equal ask the same as well; only what goes beyond them is news.
        if same > counts[f"{name} rows also in train"]:
            counts[f"{name} rows that ask the same as a train row, equal rows among them"] = same
    return {what: count for what, count in counts.items() if count}


def _cut_windows(tokens: TokenizedRow, max_seq_len: int) -> list[TokenizedRow]:
    """Windows of a document: each begins with the last token of the one before, and every token is predicted once."""
    windows: list[TokenizedRow] = []
    start = 0
    while start + 1 < len(tokens.input_ids):
        stop = min(start + max_seq_len, len(tokens.input_ids))
        windows.append(TokenizedRow(tokens.input_ids[start:stop], [False, *tokens.trained[start + 1 : stop]]))
        start = stop - 1
    return windows
