"""Data files become a data set that can be trained on, or an error that says why not.

Nothing is written here: `read_conversations` reads the files of the recipe, `tokenize_splits` returns the splits.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from kivnun.data.conversation import Conversation, Message
from kivnun.data.encode import Encoder
from kivnun.data.sources import Row, first_problems, read_rows, shorten
from kivnun.data.split import SPLITS, assign_splits
from kivnun.data.template import MESSAGES_HINT, PromptTemplate, choose_template, read_messages, render
from kivnun.data.tokens import TokenizedRow, TokenTable, make_table
from kivnun.errors import UserError
from kivnun.recipe.rules import list_files
from kivnun.recipe.schema import DataSection


@dataclass(frozen=True)
class PreparedRow:
    """A row, tokenised."""

    conversation: Conversation
    tokens: TokenizedRow

    @property
    def prompt_ids(self) -> list[int]:
        """The ids before the last trained stretch: what the model is asked when the row is evaluated."""
        trained = self.tokens.trained
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
    """

    template: PromptTemplate
    splits: Mapping[str, list[PreparedRow]]
    dropped: Mapping[str, int]
    repeated: Mapping[str, int]
    stop_ids: frozenset[int]

    def table(self, split: str) -> TokenTable:
        """The token table of a split."""
        return make_table(row.tokens for row in self.splits[split])


def read_conversations(data: DataSection, objective: str) -> tuple[PromptTemplate, dict[str, list[Conversation]]]:
    """Read every file of a recipe and cut the splits; nothing is tokenised yet.

    Raises:
        UserError: Whatever is wrong with the files, the fields or the split.
    """
    given = {"train": data.train, "validation": data.validation, "test": data.test}
    rows = {name: read_rows(files) for name, files in given.items() if files is not None}
    columns = list(dict.fromkeys(name for part in rows.values() for row in part[:1000] for name in row.fields))
    template = choose_template(data, objective, columns)
    wanted = data.split.model_copy(update={name: 0 for name in ("validation", "test") if name in rows})
    # Files that are given as a split are not cut, and need no column to cut them by.
    stratify_by = wanted.stratify_by if wanted.validation or wanted.test else None
    if stratify_by is not None and not any(stratify_by in row.fields for row in rows["train"]):
        raise UserError(
            "template-field",
            f"{', '.join(list_files(data.train))}: no column {stratify_by!r}",
            details=[f"{stratify_by!r} is named in data.split.stratify_by", f"columns: {', '.join(columns)}"],
            hint="name a column that is there in data.split.stratify_by, or leave it out",
        )
    read = {
        name: _read_all(part, template, data, stratify_by if name == "train" else None) for name, part in rows.items()
    }
    _require_sources(data.repeat, {conversation.fields.get("source", "") for conversation in read["train"]})
    strata = [conversation.fields[stratify_by] if stratify_by else "" for conversation in read["train"]]
    places = assign_splits([conversation.content_hash for conversation in read["train"]], strata, wanted)
    splits: dict[str, list[Conversation]] = {name: [] for name in SPLITS}
    for conversation, place in zip(read["train"], places, strict=True):
        splits[place].append(conversation)
    for name in ("validation", "test"):
        splits[name] += read.get(name, [])
    return template, splits


def tokenize_splits(
    template: PromptTemplate, conversations: Mapping[str, list[Conversation]], data: DataSection, encoder: Encoder
) -> PreparedData:
    """Tokenise rows that were read, windows for documents, and refuse or count what is too long.

    Raises:
        UserError: `answer-cut`, `nothing-to-learn`, `data-field` for special tokens in the rows, or `messages-invalid`
            where the chat template does not fit.
    """
    _require_plain_text(conversations, template, encoder)
    splits: dict[str, list[PreparedRow]] = {}
    too_long: list[str] = []
    for name, part in conversations.items():
        splits[name] = []
        for conversation in part:
            segments = render(conversation, template, end=encoder.end, render_chat=encoder.render_chat)
            tokens = encoder.encode(segments)
            if template.kind == "document":
                windows = _cut_windows(tokens, data.max_seq_len)
                repeats = data.repeat.get(conversation.fields.get("source", ""), 1) if name == "train" else 1
                splits[name] += [PreparedRow(conversation, window) for window in windows] * repeats
            elif len(tokens.input_ids) > data.max_seq_len:
                too_long.append(f"{conversation.where}: {len(tokens.input_ids)} tokens in the {name} split")
            else:
                splits[name].append(PreparedRow(conversation, tokens))
    emptied = [name for name, part in conversations.items() if part and not splits[name]]
    if too_long and (data.on_too_long == "refuse" or emptied):
        rows = f"every row of the {emptied[0]} split is" if emptied else f"{len(too_long)} row(s) are"
        raise UserError(
            "answer-cut",
            f"{rows} longer than data.max_seq_len = {data.max_seq_len}; the answers would be cut",
            details=first_problems(too_long),
            hint="raise data.max_seq_len, shorten the rows, or set data.on_too_long: drop",
        )
    _require_trained(splits)
    dropped = {"longer than max_seq_len": len(too_long)} if too_long else {}
    stop_ids = _find_stop_ids(splits, encoder, is_chat=template.kind == "chat")
    return PreparedData(template, splits, dropped, _count_repeated(conversations), stop_ids)


def _require_sources(repeat: Collection[str], sources: Collection[str]) -> None:
    """Refuse to repeat what is not there: a misspelt name would change nothing, silently."""
    for name in repeat:
        if name not in sources:
            close = get_close_matches(name, sources, n=1)
            known = ", ".join(sorted(filter(None, sources))) or "none; only text files have one"
            raise UserError(
                "recipe-invalid",
                f"data.repeat: `{name}` is no source of data.train{f'; did you mean `{close[0]}`?' if close else ''}",
                details=[f"sources: {known}"],
                hint="name a text file by its name up to the first dot",
            )


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


def _row_texts(conversation: Conversation, template: PromptTemplate) -> list[tuple[str, str]]:
    """What a row brings to its text, with a name for each piece."""
    if template.kind == "text":
        return [(f"field {name!r}", conversation.fields[name]) for name in template.fields]
    if template.kind == "document":
        return [("the document", conversation.answer)]
    return [
        (f"turn {number} ({turn.role})", turn.content) for number, turn in enumerate(conversation.messages, start=1)
    ]


def _require_trained(splits: Mapping[str, list[PreparedRow]]) -> None:
    """The first token of a row is predicted by nothing, so that it does not count."""
    empty = [row.conversation.where for part in splits.values() for row in part if not any(row.tokens.trained[1:])]
    if empty or not splits["train"]:
        raise UserError(
            "nothing-to-learn",
            f"{len(empty)} row(s) have no token that is trained" if empty else "the training split has no rows",
            details=first_problems(empty),
            hint="check that the answers are not empty and that the model's chat template writes them",
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


def _count_repeated(conversations: Mapping[str, list[Conversation]]) -> dict[str, int]:
    """Equal rows: harmless in moderation within train, a leak between train and what is measured on."""
    hashes = {name: [conversation.content_hash for conversation in part] for name, part in conversations.items()}
    counts = {"train rows that repeat an earlier one": len(hashes["train"]) - len(set(hashes["train"]))}
    for name, other in (("validation", "train"), ("test", "train"), ("test", "validation")):
        known = set(hashes[other])
        counts[f"{name} rows also in {other}"] = sum(digest in known for digest in hashes[name])
    return {what: count for what, count in counts.items() if count}


def _read_all(
    rows: Sequence[Row], template: PromptTemplate, data: DataSection, stratify_by: str | None
) -> list[Conversation]:
    needed = {*(template.fields if template.kind != "chat" else ()), *data.value_names}
    needed |= {stratify_by} if stratify_by else set()
    problems: list[str] = []
    conversations: list[Conversation] = []
    for row in rows:
        fields, wrong = _read_fields(row, needed, data.value_names)
        if wrong:
            problems += wrong
            continue
        try:
            conversations.append(Conversation(_make_turns(row, fields, template), fields, row.where))
        except UserError as error:
            problems.append(error.problem)
    if problems:
        is_chat = template.kind == "chat"
        raise UserError(
            "messages-invalid" if is_chat else "data-field",
            f"{len(problems)} problem(s) in {len(rows)} row(s)",
            details=first_problems(problems),
            hint=MESSAGES_HINT
            if is_chat
            else "fill or remove these rows: an empty field would be trained as if it were text",
        )
    return conversations


def _make_turns(row: Row, fields: Mapping[str, str], template: PromptTemplate) -> tuple[Message, ...]:
    if template.kind == "chat":
        return read_messages(row.fields.get(template.column), row.where)
    if template.kind == "document":
        return (Message("assistant", fields[template.column], trained=True),)
    prompt = Message("user", template.render_prompt(fields), trained=False)
    return (prompt, Message("assistant", template.render_answer(fields), trained=True))


def _read_fields(
    row: Row, needed: Collection[str], value_names: Mapping[str, Mapping[str, str]]
) -> tuple[dict[str, str], list[str]]:
    """A row's fields as text, with names for coded values, and what is wrong with those that are needed."""
    fields: dict[str, str] = {}
    problems: list[str] = []
    for name in [*row.fields, *sorted(set(needed) - set(row.fields))]:
        value = row.fields.get(name)
        if isinstance(value, str | int | float):
            fields[name] = str(value).lower() if isinstance(value, bool) else str(value)
        names = value_names.get(name)
        if name in needed and not fields.get(name, "").strip():
            problems.append(f"{row.where}: field {name!r} {_describe(row, name)}")
        elif names is not None:
            if fields[name] in names:
                fields[name] = names[fields[name]]
            else:
                known = ", ".join(names)
                problems.append(f"{row.where}: {name} {fields[name]!r} is not in data.value_names.{name} ({known})")
    return fields, problems


def _describe(row: Row, name: str) -> str:
    """What is wrong with a field that gives no text."""
    value = row.fields.get(name)
    if name not in row.fields:
        return "is missing"
    if value is None:
        return "is null"
    return f"is empty: {value!r}" if isinstance(value, str) else f"should be text, got {shorten(repr(value))}"


def _cut_windows(tokens: TokenizedRow, max_seq_len: int) -> list[TokenizedRow]:
    """Windows of a document: each begins with the last token of the one before, and every token is predicted once."""
    windows: list[TokenizedRow] = []
    start = 0
    while start + 1 < len(tokens.input_ids):
        stop = min(start + max_seq_len, len(tokens.input_ids))
        windows.append(TokenizedRow(tokens.input_ids[start:stop], [False, *tokens.trained[start + 1 : stop]]))
        start = stop - 1
    return windows
