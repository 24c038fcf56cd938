"""A tokenizer as llama.cpp reads it: byte-level BPE, or BPE over SentencePiece's marks; anything else is refused.

llama.cpp knows how a text is cut before the merges only by name. The name is found by comparing the tokenizer's own
rule with those that the names stand for, and never guessed: a wrong one gives other tokens without any error.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import gguf
from gguf import TokenType

from kivnun.data.encode import Encoder
from kivnun.models.load import load_tokenizer
from kivnun.models.types import Tokenizer
from kivnun.optimization.gguf_settings import refused

Rule = Mapping[str, object]

MARK = "\u2581"
BYTE_TOKENS = frozenset(f"<0x{byte:02X}>" for byte in range(256))
# No merge may give these.
_LOWEST_SCORE = -1e6

_CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_WORDS = r"[^\r\n\p{L}\p{N}]?"
_LLAMA3 = rf"{_CONTRACTION}|{_WORDS}\p{{L}}+|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_SPACES}"
_QWEN2 = rf"{_CONTRACTION}|{_WORDS}\p{{L}}+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_SPACES}"
_TEKKEN = rf"{_WORDS}{_UPPER}*{_LOWER}+|{_WORDS}{_UPPER}+{_LOWER}*|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACES}"
_GPT4O = (
    rf"{_WORDS}{_UPPER}*{_LOWER}+{_CONTRACTION}?|{_WORDS}{_UPPER}+{_LOWER}*{_CONTRACTION}?"
    rf"|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACES}"
)
_GPT2, _DIGITS = "GPT-2's rule", "each digit alone, then GPT-2's rule"
# By the rule and by whether a piece that is a token stays whole although no merges lead to it.
_PRE_NAMES = {
    (_GPT2, False): "gpt-2",
    (_DIGITS, False): "smollm",
    (_LLAMA3, True): "llama-bpe",
    (_LLAMA3, False): "dbrx",
    (_QWEN2, False): "qwen2",
    (_TEKKEN, True): "tekken",
    (_GPT4O, False): "gpt-4o",
}
_HINT = "remove optimization.gguf from the recipe; byte-level BPE as of GPT-2, Llama 3, Qwen and Mistral can be written"


@dataclass(frozen=True)
class GgufTokenizer:
    """What the file says of a tokenizer.

    Attributes:
        model: `gpt2` for byte-level BPE, `llama` for SentencePiece's marks.
        pre: llama.cpp's name for how a text is cut before the merges.
        tokens: Text of every token, by id.
        kinds: Kind of every token.
        merges: Of byte-level BPE.
        scores: Of SentencePiece: of two merges the one with the higher score comes first.
        special_ids: By llama.cpp's names: bos, eos, unknown, padding.
        adds_begin: Whether a text gets the begin-of-text token.
        adds_space: Whether a text gets a space before it.
        notes: Where llama.cpp's tokens may differ.
    """

    model: str
    pre: str
    tokens: Sequence[str]
    kinds: Sequence[int]
    merges: Sequence[str]
    scores: Sequence[float]
    special_ids: Mapping[str, int]
    adds_begin: bool
    adds_space: bool
    notes: tuple[str, ...]


def read_gguf_tokenizer(folder: Path, vocab_size: int) -> GgufTokenizer:
    """The tokenizer of a model folder in llama.cpp's form.

    Args:
        folder: The model.
        vocab_size: Rows of its embedding; rows without a token get a name that no text has.

    Raises:
        UserError: `export-failed` for a tokenizer that llama.cpp would not follow.
    """
    tokenizer = load_tokenizer(folder)
    rules = cast("dict[str, object]", json.loads(tokenizer.backend_tokenizer.to_str()))
    model = cast("dict[str, object]", rules["model"])
    if model["type"] != "BPE" or model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
        raise refused(f"the tokenizer is of the kind {model['type']}, which is not written as GGUF", _HINT)
    tokens, kinds = _list_tokens(tokenizer, vocab_size)
    pairs = [cast("tuple[str, str]", tuple(pair)) for pair in cast("list[list[str]]", model["merges"])]
    is_marked = bool(model.get("byte_fallback"))
    if is_marked:
        adds_space, notes = _read_marks(rules, tokens)
        scores = _score_tokens(tokens, kinds, pairs)
        pre, merges = "default", []
    else:
        pre, notes = _find_pre(rules, ignores_merges=bool(model.get("ignore_merges")))
        adds_space, scores, merges = False, [], [" ".join(pair) for pair in pairs]
    return GgufTokenizer(
        model="llama" if is_marked else "gpt2",
        pre=pre,
        tokens=tokens,
        kinds=kinds,
        merges=merges,
        scores=scores,
        special_ids=_find_special(tokenizer),
        adds_begin=_adds_begin(tokenizer),
        adds_space=adds_space,
        notes=(*notes, *_note_stripping(tokenizer)),
    )


def write_tokenizer(writer: gguf.GGUFWriter, tokenizer: GgufTokenizer) -> None:
    """Write a tokenizer into a file.

    Args:
        writer: The open file.
        tokenizer: The tokenizer.
    """
    writer.add_tokenizer_model(tokenizer.model)
    writer.add_tokenizer_pre(tokenizer.pre)
    writer.add_token_list(tokenizer.tokens)
    writer.add_token_types(tokenizer.kinds)
    if tokenizer.model == "gpt2":
        # llama.cpp does not load a byte-level tokenizer without merges, and an empty list is not written.
        writer.add_token_merges(tokenizer.merges or [f"{tokenizer.tokens[0]} {tokenizer.tokens[0]}"])
    else:
        writer.add_token_scores(tokenizer.scores)
        writer.add_add_space_prefix(tokenizer.adds_space)
    writers: Mapping[str, Callable[[int], None]] = {
        "bos": writer.add_bos_token_id,
        "eos": writer.add_eos_token_id,
        "unknown": writer.add_unk_token_id,
        "padding": writer.add_pad_token_id,
    }
    for name, number in tokenizer.special_ids.items():
        writers[name](number)
    writer.add_add_bos_token(tokenizer.adds_begin)
    # Prompts go on; an end-of-text token behind one would end the answer before it begins.
    writer.add_add_eos_token(False)  # noqa: FBT003


def _list_tokens(tokenizer: Tokenizer, vocab_size: int) -> tuple[list[str], list[int]]:
    by_id = {number: text for text, number in tokenizer.get_vocab().items()}
    if max(by_id) >= vocab_size:
        raise refused(
            f"the tokenizer has {max(by_id) + 1} tokens and the model {vocab_size} rows for them",
            "save the model with the tokenizer that it was trained with",
        )
    kinds = [int(TokenType.NORMAL)] * vocab_size
    for number in range(vocab_size):
        if number not in by_id:
            by_id[number], kinds[number] = f"[PAD{number}]", TokenType.UNUSED
        elif by_id[number] in BYTE_TOKENS:
            kinds[number] = TokenType.BYTE
    for number, token in tokenizer.added_tokens_decoder.items():
        by_id[number] = token.content
        kinds[number] = TokenType.CONTROL if token.special else TokenType.USER_DEFINED
    return [by_id[number] for number in range(vocab_size)], kinds


def _find_special(tokenizer: Tokenizer) -> dict[str, int]:
    ids = {
        "bos": tokenizer.bos_token_id,
        "eos": tokenizer.eos_token_id,
        "unknown": tokenizer.unk_token_id,
        "padding": tokenizer.pad_token_id,
    }
    return {name: cast("int", number) for name, number in ids.items() if number is not None}


def _adds_begin(tokenizer: Tokenizer) -> bool:
    """Whether prompts of this model begin with the begin-of-text token, as they were trained."""
    begin = Encoder(tokenizer).encode_prompt("a")[0]
    return tokenizer.bos_token_id is not None and begin == tokenizer.bos_token_id


def _find_pre(rules: Rule, *, ignores_merges: bool) -> tuple[str, tuple[str, ...]]:
    normalizers = [str(each["type"]) for each in _parts(rules.get("normalizer"), "normalizers")]
    if any(name != "NFC" for name in normalizers):
        raise refused(f"the tokenizer rewrites texts ({', '.join(normalizers)}), which llama.cpp does not", _HINT)
    rule = _name_rule(_parts(rules.get("pre_tokenizer"), "pretokenizers"))
    pre = _PRE_NAMES.get((rule, ignores_merges))
    if pre is None:
        raise refused(f"llama.cpp has no name for how this tokenizer cuts a text: {rule[:120]}", _HINT)
    note = "the tokenizer writes texts in Unicode's form NFC first and llama.cpp does not: give it texts in that form"
    return pre, (note,) if normalizers else ()


def _name_rule(parts: Sequence[Rule]) -> str:
    """The regular expression that a text is cut by, or the name of a rule that is built in."""
    kinds = [str(part["type"]) for part in parts]
    last: Rule = parts[-1] if parts else {}
    if not parts or kinds[-1] != "ByteLevel" or last.get("add_prefix_space"):
        return f"{' then '.join(kinds) or 'nothing'} with{'' if last.get('add_prefix_space') else 'out'} a first space"
    uses_gpt2 = bool(last.get("use_regex", True))
    if kinds == ["ByteLevel"] and uses_gpt2:
        return _GPT2
    if kinds == ["Digits", "ByteLevel"] and uses_gpt2 and parts[0].get("individual_digits"):
        return _DIGITS
    pattern = parts[0].get("pattern")
    is_one_split = kinds == ["Split", "ByteLevel"] and not uses_gpt2 and isinstance(pattern, Mapping)
    if is_one_split and (parts[0].get("behavior"), parts[0].get("invert")) == ("Isolated", False):
        return str(cast("Rule", pattern).get("Regex"))
    return " then ".join(kinds)


def _read_marks(rules: Rule, tokens: Sequence[str]) -> tuple[bool, tuple[str, ...]]:
    """Whether a text gets a space before it, of a tokenizer that writes spaces as marks."""
    lacking = BYTE_TOKENS - set(tokens)
    if lacking:
        raise refused(f"the tokenizer has no token for {len(lacking)} of the 256 bytes", _HINT)
    normalizers = _parts(rules.get("normalizer"), "normalizers")
    cutters = _parts(rules.get("pre_tokenizer"), "pretokenizers")
    adds_space, writes_marks, splits, notes = False, False, False, ()
    for part in (*normalizers, *cutters):
        kind = str(part["type"])
        if kind == "Prepend" and part.get("prepend") == MARK:
            adds_space = True
        elif kind == "Replace" and (part.get("pattern"), part.get("content")) == ({"String": " "}, MARK):
            writes_marks = True
        elif kind == "Metaspace" and part.get("replacement") == MARK:
            writes_marks, scheme = True, part.get("prepend_scheme")
            adds_space, splits = scheme != "never", bool(part.get("split", True))
            if scheme == "first":
                notes = ("behind a special token llama.cpp puts a space that this tokenizer does not",)
        elif not (kind == "Split" and part.get("pattern") == {"String": " "} and normalizers):
            raise refused(f"the tokenizer uses the rule {kind}, which llama.cpp does not follow", _HINT)
    joined = [token for token in tokens if re.search(f"[^{MARK}]{MARK}", token)] if splits else []
    if not writes_marks or joined:
        raise refused("llama.cpp would join words that this tokenizer keeps apart", _HINT)
    return adds_space, notes


def _score_tokens(tokens: Sequence[str], kinds: Sequence[int], merges: Sequence[tuple[str, str]]) -> list[float]:
    """Scores that make llama.cpp merge in the order of the merges.

    llama.cpp joins any two neighbours that make up a token, the highest score first. That is what the merges say only
    if they list every such pair.
    """
    known = set(tokens)
    listed = set(merges)
    plain = [token for token, kind in zip(tokens, kinds, strict=True) if kind == TokenType.NORMAL]
    implied = {
        (token[:place], token[place:])
        for token in plain
        for place in range(1, len(token))
        if token[:place] in known and token[place:] in known
    }
    if implied != listed:
        pair = " and ".join(min(implied ^ listed))
        problem = f"llama.cpp would join tokens in another order than this tokenizer ({pair}, for one)"
        raise refused(problem, _HINT)
    ranks: dict[str, int] = {}
    for rank, (left, right) in enumerate(merges):
        ranks.setdefault(left + right, rank)
    return [-float(ranks[token]) if token in ranks else _LOWEST_SCORE for token in tokens]


def _note_stripping(tokenizer: Tokenizer) -> tuple[str, ...]:
    stripping = [token.content for token in tokenizer.added_tokens_decoder.values() if token.lstrip or token.rstrip]
    if not stripping:
        return ()
    return (f"spaces beside {', '.join(stripping[:3])} are dropped by this tokenizer and may be kept by llama.cpp",)


def _parts(rule: object, name: str) -> list[Rule]:
    """The rules of a sequence, or the one rule there is."""
    if not isinstance(rule, Mapping):
        return []
    single = cast("Rule", rule)
    if single["type"] == "Sequence":
        return [part for each in cast("list[Rule]", single[name]) for part in _parts(each, name)]
    return [single]
