"""How long near duplicates take, in what memory, and how many of the planted ones are found.

    python bench/near_duplicates.py --rows 1000000

Rows are English or Hebrew questions of about 300 bytes with a label; one in fifty is a copy of an earlier one in
which one to four times a word was changed, added, left out or mistyped.
"""

import argparse
import json
import random
import resource
import sys
import time
from collections.abc import Iterator, Sequence

import numpy as np

from kivnun.data.conversation import Conversation, Message
from kivnun.data.duplicates.fingerprint import concatenate, fingerprint
from kivnun.data.duplicates.groups import pair_rows
from kivnun.data.duplicates.minhash import THRESHOLD, measure_similarity
from kivnun.data.duplicates.words import comparable

BATCH_ROWS = 2000
PLANTED_EVERY = 50
VOCABULARY = 20_000
MEASURED_PAIRS = 50_000
LETTERS = {"en": "etaoinshrdlucmfwypvbgkqjxz", "he": "יוהלארתבשמנחדעפקכגטזסצ"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    texts, planted = draw_texts(options.rows, random.Random(options.seed))  # noqa: S311
    before = peak_gib()
    started = time.perf_counter()
    prints = concatenate(
        fingerprint(batch, range(start, start + len(batch)), file=0, near=True) for start, batch in batches(texts)
    )
    signed = time.perf_counter()
    pairs = pair_rows(prints)
    paired = time.perf_counter()
    result = {
        "rows": options.rows,
        "bytes_per_row": round(sum(len(text.encode()) for text in texts[:10_000]) / min(options.rows, 10_000)),
        "signature_seconds": round(signed - started, 1),
        "pairing_seconds": round(paired - signed, 1),
        "peak_memory_gib": round(peak_gib(), 2),
        "texts_alone_gib": round(before, 2),
        "pairs": len(pairs),
        **judge(texts, planted, pairs.tolist()),
    }
    if options.json:
        print(json.dumps(result))
    else:
        for name, value in result.items():
            print(f"{name:<32}{value:>12,}")


def draw_texts(count: int, generator: random.Random) -> tuple[list[str], list[tuple[int, int]]]:
    """Texts, and the pairs of original and copy among them."""
    words = {name: draw_words(letters, generator) for name, letters in LETTERS.items()}
    # Frequencies of words as Zipf found them.
    weights = np.cumsum(1 / np.arange(10, VOCABULARY + 10)).tolist()
    texts: list[str] = []
    planted: list[tuple[int, int]] = []
    for number in range(count):
        if number % PLANTED_EVERY == PLANTED_EVERY - 1:
            original = generator.randrange(len(texts))
            texts.append(change_text(texts[original], words, generator))
            planted.append((original, number))
            continue
        language = "he" if number % 3 == 0 else "en"
        length = generator.randint(20, 35) if language == "he" else generator.randint(35, 60)
        texts.append(" ".join(generator.choices(words[language], cum_weights=weights, k=length)) + "?")
    return texts, planted


def draw_words(letters: str, generator: random.Random) -> list[str]:
    weights = [1 / (place + 3) for place in range(len(letters))]
    return ["".join(generator.choices(letters, weights, k=generator.randint(2, 9))) for _ in range(VOCABULARY)]


def change_text(text: str, words: dict[str, list[str]], generator: random.Random) -> str:
    """A text after one to four changes."""
    for _ in range(generator.randint(1, 4)):
        parts = text.split(" ")
        place = generator.randrange(len(parts))
        kind = generator.randrange(4)
        if kind == 0:
            parts[place] = generator.choice(words["en"])
        elif kind == 1:
            parts.insert(place, generator.choice(words["en"]))
        elif kind == 2:
            del parts[place]
        else:
            letter = generator.randrange(len(parts[place]) or 1)
            parts[place] = parts[place][:letter] + "x" + parts[place][letter + 1 :]
        text = " ".join(parts)
    return text


def batches(texts: Sequence[str]) -> Iterator[tuple[int, list[Conversation]]]:
    answer = Message("assistant", "yes", trained=True)
    for start in range(0, len(texts), BATCH_ROWS):
        rows = texts[start : start + BATCH_ROWS]
        yield start, [Conversation((Message("user", text, trained=False), answer), {}, "") for text in rows]


def judge(
    texts: Sequence[str], planted: Sequence[tuple[int, int]], pairs: Sequence[tuple[int, int]]
) -> dict[str, float]:
    """How many of the planted pairs above the threshold were found, and how many of the found ones are above it."""
    found = {tuple(pair) for pair in pairs}
    shares = {pair: similarity(texts, pair) for pair in planted if comparable_differ(texts, pair)}
    true = [pair for pair, share in shares.items() if share >= THRESHOLD]
    close = [pair for pair in true if shares[pair] >= 0.9]
    generator = random.Random(1)  # noqa: S311
    sample = generator.sample(sorted(found), min(len(found), MEASURED_PAIRS))
    measured = [similarity(texts, pair) for pair in sample]
    return {
        "planted": len(planted),
        "planted_above_threshold": len(true),
        "recall": round(sum(pair in found for pair in true) / max(1, len(true)), 4),
        "recall_above_0.90": round(sum(pair in found for pair in close) / max(1, len(close)), 4),
        "precision": round(sum(share >= THRESHOLD for share in measured) / max(1, len(measured)), 4),
        "found_above_0.75": round(sum(share >= THRESHOLD - 0.1 for share in measured) / max(1, len(measured)), 4),
    }


def comparable_differ(texts: Sequence[str], pair: tuple[int, int]) -> bool:
    return comparable(texts[pair[0]]) != comparable(texts[pair[1]])


def similarity(texts: Sequence[str], pair: Sequence[int]) -> float:
    return measure_similarity(comparable(texts[pair[0]]), comparable(texts[pair[1]]))


def peak_gib() -> float:
    # Linux counts in KiB.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20)


if __name__ == "__main__":
    sys.exit(main())
