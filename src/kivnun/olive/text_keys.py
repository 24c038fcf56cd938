"""`pre_process_data_config`: how rows become text."""

from collections.abc import Mapping
from typing import Final, cast

from kivnun.olive.groups import NO_CODE, Group, Rule, never, only
from kivnun.olive.meanings import refused, same
from kivnun.olive.translation import Meaning
from kivnun.recipe.templates import template_fields

OLIVE_MAX_SEQ_LEN: Final = 1024
"""Tokens of a block or row where Olive is told nothing."""
_NO_PADDING = "batches hold no padding"
_NOT_JOINED = (
    "batches are packed as full, but each row stands alone: none reads another's text, none is cut, no tail is dropped"
)


def text_rules(text: Group) -> dict[str, Rule]:
    """What the keys of `pre_process_data_config` become."""
    return {
        "text_template": _template(text),
        "text_cols": _text_columns(text),
        "chat_template": _chat_template(text),
        "message_col": _message_column(text),
        "source_max_len": _length,
        "max_seq_len": _length,
        "corpus_strategy": _strategy,
        "strategy": _strategy,
        "dataset_type": only(
            ("corpus", None),
            "each row is one text, by text_template",
            "write dataset_type: corpus with a text_template whose last field is the answer",
        ),
        "type": only(
            ("text-generation-huggingface-dataset", "text_generation_huggingface_dataset", "huggingface_pre_process"),
            "rows become text",
            "rows become text by text_template or chat_template; remove it",
        ),
        "task": only(("text-generation", None), "rows become text", "only text generation is prepared; remove it"),
        "pad_to_max_len": only((False,), _NO_PADDING, f"has no effect: {_NO_PADDING}; write false, or remove it"),
        "use_attention_mask": only(
            (False,), f"{_NO_PADDING}, and attention stays within a row", f"has no effect: {_NO_PADDING}; write false"
        ),
        "padding_side": never(f"has no effect: {_NO_PADDING}; remove it"),
        "drop_short_sequences": only((False,), "every row is trained", "every row is trained; remove it"),
        "add_special_tokens": only(
            (True,), "each answer ends with the end token, which is trained", "the end of an answer is always trained"
        ),
        "max_samples": only((None,), "all rows", "write the number of rows in the split: train[:256]"),
        "random_seed": only((None,), "training.seed decides", "write seed in training_args"),
        "joiner": never("has no effect: rows are not joined; remove it"),
        "stride": never("has no effect: rows are not joined; remove it"),
        "processing_batch_size": never("has no effect; remove it"),
        "random_retries": never("has no effect; remove it"),
        "text_formatting_func": only((None,), "text_template says it", NO_CODE),
        "user_script": never(NO_CODE),
        "script_dir": never(NO_CODE),
        "target_max_len": never("prompt and answer share max_seq_len; write that alone"),
        "pair_format": never("write text_template"),
        "input_cols": never("write text_template"),
        "label_col": never("write text_template with the label as its last field"),
    }


def _strategy(value: object) -> Meaning:
    if value == "join":
        return same(_NOT_JOINED)
    if value == "line-by-line":
        return same("each row stands by itself")
    return refused(f"{value!r} is not done here: rows are shuffled whole, by training.seed; write join")


def _length(value: object) -> Meaning:
    return Meaning("renamed", {"data.max_seq_len": value}, "a longer row is refused, not cut")


def _template(text: Group) -> Rule:
    def rule(value: object) -> Meaning:
        if text.get("chat_template"):
            return refused("has no effect beside chat_template; keep one of them")
        return Meaning("used", {"data.text_template": value}, "the last field is the answer, which alone is trained")

    return rule


def _text_columns(text: Group) -> Rule:
    def rule(value: object) -> Meaning:
        columns = cast("list[object]", value) if isinstance(value, list) else [value]
        template = text.get("text_template")
        if text.get("chat_template"):
            return refused("has no effect beside chat_template; remove it")
        if isinstance(template, str):
            try:
                unused = [each for each in columns if each not in template_fields(template)]
            except ValueError:
                unused = []
            if unused:
                return refused(f"{unused[0]!r} is not in text_template, and has no effect beside it; remove it")
            return same("text_template names them")
        if columns == ["text"]:
            return Meaning("renamed", {"training.objective.kind": "text"}, "every token of the column is trained")
        if len(columns) == 1:
            return refused(f"rename the column {columns[0]!r} to text, or write text_template with prompt and answer")
        template = " ".join(f"{{{name}}}" for name in columns)
        return Meaning("renamed", {"data.text_template": template}, "the last column is the answer")

    return rule


def _chat_template(text: Group) -> Rule:
    def rule(value: object) -> Meaning:
        if value is True:
            column = text.get("message_col") or "messages"
            return Meaning("renamed", {"data.messages": column}, "the model's own chat template")
        if value in (False, None):
            return same("no chat template is asked for")
        return refused("the model's own chat template is used; write true, and put another one into the model's folder")

    return rule


def _message_column(text: Group) -> Rule:
    def rule(_: object) -> Meaning:
        if text.get("chat_template") is True:
            return Meaning("used", note="in data.messages")
        return refused("has no effect without chat_template: true")

    return rule


def take_text_defaults(text: Group) -> None:
    """Write out what Olive takes where nothing is said of the text."""
    draft = text.draft

    def default(name: str, value: object, fields: Mapping[str, object], note: str = "") -> None:
        draft.add(f"{text.key}.{name}", value, Meaning("default", fields, note))

    if not {"source_max_len", "max_seq_len"} & set(text.entries):
        default("max_seq_len", OLIVE_MAX_SEQ_LEN, {"data.max_seq_len": OLIVE_MAX_SEQ_LEN})
    if not any(text.get(name) for name in ("text_template", "text_cols", "chat_template", "text_formatting_func")):
        default("text_cols", ["text"], {"training.objective.kind": "text"}, "every token of the column is trained")
