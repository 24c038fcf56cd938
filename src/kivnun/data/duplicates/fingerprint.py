"""Rows as a few numbers, so that millions of them can be compared without their texts."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from hashlib import blake2b

import numpy as np
import orjson
from numpy.typing import NDArray

from kivnun.data.conversation import Conversation, Message
from kivnun.data.duplicates.minhash import signatures
from kivnun.data.duplicates.words import comparable

_INSTRUCTIONS = ("system", "developer")
_HASH_BYTES = 8
_SHORT_ANSWER = 80
_MIX = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class Fingerprints:
    """Some rows as arrays of equal length.

    Attributes:
        row: Hash of what is said and learnt, to the letter.
        input: Hash of the comparable words before the answer, without system turns; of a row that has none (a
            document), of the answer's.
        question: Hash of all that decides what the right answer is: the input, system turns and tools; of a preference
            row also the pair, of a KTO row also the answer that is judged. Equal questions with different answers
            contradict each other.
        answer: Hash of the answer, a short one's whatever its case and spaces; the same for all rows without an input.
        file: Number of the file.
        line: Line in the file.
        signatures: What near duplicates are found by (see `minhash`), a row each; None where they are not looked for.
    """

    row: NDArray[np.uint64]
    input: NDArray[np.uint64]
    question: NDArray[np.uint64]
    answer: NDArray[np.uint64]
    file: NDArray[np.uint32]
    line: NDArray[np.int64]
    signatures: NDArray[np.uint32] | None

    def __len__(self) -> int:
        return len(self.row)


def fingerprint(conversations: Sequence[Conversation], lines: Sequence[int], *, file: int, near: bool) -> Fingerprints:
    """The fingerprints of some rows of one file.

    Args:
        conversations: The rows.
        lines: The line of each.
        file: The number by which the file is named in findings.
        near: Whether near duplicates will be looked for, which costs several times as much.
    """
    rows: list[bytes] = []
    inputs: list[bytes] = []
    answers: list[bytes] = []
    contexts: list[int] = []
    texts: list[str] = []
    for conversation in conversations:
        turn = _answer_turn(conversation)
        spoken, instructions, whole = _read_turns(conversation, turn)
        text = _input_words(conversation, spoken)
        texts.append(text)
        inputs.append(_digest(text))
        rows.append(_digest(whole))
        answers.append(_digest(_answer_text(conversation, turn, has_input=bool(spoken))))
        contexts.append(_context(conversation, instructions))
    input_hashes = _as_numbers(inputs)
    return Fingerprints(
        row=_as_numbers(rows),
        input=input_hashes,
        question=input_hashes * _MIX + np.array(contexts, dtype=np.uint64),
        answer=_as_numbers(answers),
        file=np.full(len(rows), file, dtype=np.uint32),
        line=np.array(lines, dtype=np.int64),
        signatures=signatures(texts) if near else None,
    )


def concatenate(parts: Iterable[Fingerprints]) -> Fingerprints:
    """Fingerprints one after the other; signatures only where all parts have them."""
    parts = list(parts) or [fingerprint((), (), file=0, near=False)]
    arrays = {
        field.name: np.concatenate([getattr(part, field.name) for part in parts])
        for field in fields(Fingerprints)
        if field.name != "signatures"
    }
    signed = [part.signatures for part in parts if part.signatures is not None]
    return Fingerprints(**arrays, signatures=np.concatenate(signed) if len(signed) == len(parts) else None)


def input_words(conversation: Conversation) -> str:
    """The comparable words of the turns before the answer, without system turns; of a document, its own."""
    return _input_words(conversation, _read_turns(conversation, _answer_turn(conversation))[0])


def _answer_turn(conversation: Conversation) -> int:
    """Index of the turn that is learnt last; the number of turns where none is."""
    messages = conversation.messages
    for index in range(len(messages) - 1, -1, -1):
        if messages[index].trained:
            return index
    return len(messages)


def _read_turns(conversation: Conversation, answer_turn: int) -> tuple[list[Message], list[str], str]:
    """What is spoken before the answer, the instructions, and the whole row to the letter."""
    spoken: list[Message] = []
    instructions: list[str] = []
    whole: list[str] = []
    for index, turn in enumerate(conversation.messages):
        role, content = turn.role, turn.content
        whole += (role, "+" if turn.trained else "-", content)
        if turn.tool_calls or turn.images or turn.name:
            whole += (turn.name, *_beside(turn))
        if role in _INSTRUCTIONS:
            instructions.append(content)
        elif index < answer_turn:
            spoken.append(turn)
    if conversation.rejected is not None:
        whole += ("rejected", conversation.rejected.content, *_beside(conversation.rejected))
    if conversation.desirable is not None:
        whole.append(f"desirable {conversation.desirable}")
    if conversation.tools:
        whole.append(_dump(conversation.tools))
    if answer_turn == len(conversation.messages):
        whole.append(_dump(conversation.extra))
    return spoken, instructions, "\x1f".join(whole)


def _input_words(conversation: Conversation, spoken: Sequence[Message]) -> str:
    spoken = spoken or conversation.messages
    if len(spoken) == 1:
        words = comparable(spoken[0].content)
    else:
        words = comparable("\n".join([turn.content for turn in spoken]))
    beside = [part for turn in spoken if turn.tool_calls or turn.images for part in _beside(turn)]
    return " ".join([words, *beside]) if beside else words


def _answer_text(conversation: Conversation, turn: int, *, has_input: bool) -> str:
    """What may contradict another row's: the answer; of a KTO row the verdict, of a reinforcement row the reference."""
    if turn == len(conversation.messages):
        return _dump(conversation.extra)
    if conversation.desirable is not None:
        return str(conversation.desirable)
    if not has_input:
        return ""
    answer = conversation.messages[turn]
    # Labels are few words; long answers are told apart by the letter, which is faster and hardly another outcome.
    words = " ".join(answer.content.casefold().split()) if len(answer.content) <= _SHORT_ANSWER else answer.content
    return "\x1f".join([words, *_beside(answer)]) if answer.tool_calls or answer.images else words


def _context(conversation: Conversation, instructions: Sequence[str]) -> int:
    """What else decides on the right answer, as a number; 0 for nothing."""
    parts = [*instructions]
    if conversation.tools:
        parts.append(_dump(conversation.tools))
    if conversation.rejected is not None:
        parts += sorted((conversation.messages[-1].content, conversation.rejected.content))
    if conversation.desirable is not None:
        parts.append(conversation.messages[-1].content)
    return _hash_context("\x1f".join(parts)) if parts else 0


# Most rows of a data set have the same system turn.
@lru_cache(maxsize=64)
def _hash_context(text: str) -> int:
    return int.from_bytes(_digest(text), "little")


def _beside(turn: Message) -> list[str]:
    """What a turn has beside its text."""
    calls = [f"{call.name}({call.arguments})" for call in turn.tool_calls]
    return [*calls, *(image.url for image in turn.images)]


def _dump(value: object) -> str:
    return orjson.dumps(value, default=str, option=orjson.OPT_SORT_KEYS).decode()


def _digest(text: str) -> bytes:
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=_HASH_BYTES).digest()


def _as_numbers(digests: Sequence[bytes]) -> NDArray[np.uint64]:
    return np.frombuffer(b"".join(digests), dtype="<u8").astype(np.uint64)
