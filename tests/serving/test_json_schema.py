"""An answer that is held to a schema and comes to its end is valid, whatever the model would rather say."""

import json
from collections.abc import Mapping

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kivnun.data.encode import Encoder
from kivnun.errors import UserError
from kivnun.models.new import train_tokenizer
from kivnun.serving.json_schema import ANY_OBJECT, Grammars, json_source
from kivnun.serving.text import vocabulary_of

ENCODER = Encoder(train_tokenizer(['{"name": "Dana", "age": 3}', "שלום עולם", "true false null"] * 3, 330))
VOCABULARY = vocabulary_of(ENCODER)
GRAMMARS = Grammars(VOCABULARY.grammar_tokenizer)
STOP = frozenset({ENCODER.end_id, 2})
# A model's logits may be padded to a round number of tokens.
NUM_LOGITS = VOCABULARY.num_tokens + 30
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


def draw(schema: Mapping[str, object], seed: int, *, max_tokens: int = 400, likes: bytes = b"") -> tuple[str, bool]:
    """The answer of a model with random weights, which much prefers some tokens; and whether it came to its end."""
    constraint = GRAMMARS.compile(json_source(schema), "test").start(STOP, NUM_LOGITS)
    random = np.random.default_rng(seed)
    liked_V = np.array([VOCABULARY.bytes_of(token).strip(likes) == b"" for token in range(NUM_LOGITS)])
    liked_V[VOCABULARY.num_tokens :] = True
    ids: list[int] = []
    while len(ids) < max_tokens:
        allowed_V = constraint.allowed()
        assert allowed_V is not None
        assert allowed_V.shape == (NUM_LOGITS,)
        logits_V = random.normal(size=NUM_LOGITS) * 3 + 100.0 * liked_V * bool(likes)
        # A model of letters that closes what it opened: else strings would never end.
        logits_V += 4.0 * np.array([VOCABULARY.bytes_of(token)[:1] in b'"}]' for token in range(NUM_LOGITS)])
        token = int(np.where(allowed_V, logits_V, -np.inf).argmax())
        constraint.take(token)
        if token in STOP:
            return text_of(ids), True
        ids.append(token)
    return text_of(ids), False


def text_of(ids: list[int]) -> str:
    return b"".join(VOCABULARY.bytes_of(token) for token in ids).decode("utf-8", "replace")


def schemas() -> st.SearchStrategy[dict[str, object]]:
    """Schemas of the kinds that clients write."""
    names = st.sampled_from(["name", "age", "שם", "a b", 'q"u'])
    bounds = st.integers(-20, 20)
    leaves = st.one_of(
        st.sampled_from([{"type": "boolean"}, {"type": "null"}, {"type": "number"}, {"type": ["string", "null"]}]),
        st.builds(lambda low, more: {"type": "integer", "minimum": low, "maximum": low + more}, bounds, st.just(9)),
        st.builds(lambda values: {"enum": values}, st.lists(st.one_of(names, bounds), min_size=1, max_size=3)),
        st.builds(lambda length: {"type": "string", "maxLength": length}, st.integers(0, 6)),
        st.builds(lambda value: {"const": value}, st.one_of(names, bounds, st.none())),
        st.just({"type": "string", "pattern": "^[a-c]{2,4}$"}),
    )

    def nest(inner: st.SearchStrategy[dict[str, object]]) -> st.SearchStrategy[dict[str, object]]:
        objects = st.builds(_object, st.dictionaries(names, inner, max_size=3), st.booleans())
        arrays = st.builds(lambda items, most: {"type": "array", "items": items, "maxItems": most}, inner, st.just(3))
        return st.one_of(objects, arrays, st.builds(lambda one, two: {"anyOf": [one, two]}, inner, inner))

    return st.recursive(leaves, nest, max_leaves=6)


def _object(properties: dict[str, object], all_needed: bool) -> dict[str, object]:
    required = list(properties) if all_needed else list(properties)[:1]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


@given(schemas(), st.integers(0, 99))
@settings(max_examples=60)
def test_every_answer_that_ends_is_valid(schema: dict[str, object], seed: int) -> None:
    text, ended = draw(schema, seed)
    if ended:
        jsonschema.validate(json.loads(text), schema)


def test_most_answers_end_by_themselves() -> None:
    assert sum(draw(PERSON, seed)[1] for seed in range(20)) >= 15


def test_json_mode_gives_an_object() -> None:
    text, ended = next(drawn for drawn in (draw(ANY_OBJECT, seed) for seed in range(30)) if drawn[1])
    assert ended
    assert isinstance(json.loads(text), dict)


def test_a_model_that_only_wants_white_space_comes_to_its_end() -> None:
    schema = _object({"ok": {"type": "boolean"}}, True)
    text, ended = draw(schema, 1, max_tokens=200, likes=b" \n\t\r")
    assert ended
    assert set(json.loads(text)) == {"ok"}


def test_stop_tokens_are_allowed_only_where_the_answer_may_end() -> None:
    constraint = GRAMMARS.compile(json_source(PERSON), "test").start(STOP, NUM_LOGITS)
    for token in ENCODER.encode_prompt('{"name": "Dana", "age": 3}'):
        allowed_V = constraint.allowed()
        assert allowed_V is not None
        assert not allowed_V[list(STOP)].any()
        assert allowed_V[token]
        constraint.take(token)
    last_V = constraint.allowed()
    assert last_V is not None
    assert set(np.flatnonzero(last_V)) == set(STOP)


def test_answers_of_one_schema_do_not_touch_each_other() -> None:
    grammar = GRAMMARS.compile(json_source(PERSON), "test")
    first, second = grammar.start(STOP, NUM_LOGITS), grammar.start(STOP, NUM_LOGITS)
    before = second.allowed()
    for token in ENCODER.encode_prompt('{"name": "D'):
        first.take(token)
    assert np.array_equal(before, second.allowed())
    assert not np.array_equal(before, first.allowed())


def test_a_model_with_fewer_logits_than_the_tokenizer_has_tokens() -> None:
    allowed_V = GRAMMARS.compile(json_source(PERSON), "test").start(STOP, 260).allowed()
    assert allowed_V is not None
    assert allowed_V.shape == (260,)
    assert allowed_V.any()


def test_a_grammar_is_made_once_for_a_schema() -> None:
    grammars = Grammars(VOCABULARY.grammar_tokenizer)
    first, second = (grammars.compile(json_source(PERSON), name) for name in ("first", "second"))
    assert first.matcher is second.matcher
    assert second.name == "second"


DEEP: dict[str, object] = {"type": "integer"}
for _ in range(700):
    DEEP = {"type": "array", "items": DEEP}


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"type": "strin"}, "Invalid type: strin"),
        ({"type": "object", "not": {}}, 'Unimplemented keys: ["not"]'),
        ({"not": {}, "x-guidance": {"lenient": True}}, 'Unimplemented keys: ["not"]'),
        ({"type": "string", "pattern": "(?=a)"}, "look-around"),
        ({"$ref": "http://example.org/schema"}, "retriev"),
        ({"enum": []}, "Unsatisfiable"),
        ({"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}, ""),
        (DEEP, ""),
        ({"type": "string", "minLength": float("nan")}, ""),
        ({"enum": ["x" * 300_000]}, "longer than"),
    ],
    ids=["type", "not", "smuggled", "look-around", "remote", "empty", "endless", "deep", "nan", "long"],
)
def test_a_schema_that_cannot_be_kept_is_refused_with_the_reason(schema: dict[str, object], reason: str) -> None:
    with pytest.raises(UserError, match="Invalid schema") as refused:
        GRAMMARS.compile(json_source(schema), "test").start(STOP, NUM_LOGITS).allowed()
    assert refused.value.code == "schema-unsupported"
    assert reason in refused.value.problem
    assert "<state>" not in refused.value.problem


def test_a_schema_without_any_answer_is_refused_when_it_is_noticed() -> None:
    impossible = {
        "type": "object",
        "properties": {"a": {"$ref": "#"}},
        "required": ["a"],
        "additionalProperties": False,
    }
    text, ended = draw(impossible, 1, max_tokens=60)
    assert not ended
    assert text.startswith('{"a"')
