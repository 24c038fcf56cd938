"""Near duplicates among many texts: MinHash signatures (Broder 1997) and banded locality-sensitive hashing.

Texts are compared by the share of their character 4-grams that both have (Jaccard). Characters, not words, so that
short texts and scripts without spaces have enough of them. Equal places of two signatures estimate that share.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

NUM_PERMUTATIONS = 64
GRAM = 4
MIN_CHARACTERS = 20
THRESHOLD = 0.85
NO_SIGNATURE = np.uint32(0xFFFFFFFF)

# Bands of 6 values: two texts that share 85% of their 4-grams meet in one of 10 bands with a chance of 99%, two that
# share half of them with one of 15%.
_BAND_ROWS = 6
_NUM_BANDS = NUM_PERMUTATIONS // _BAND_ROWS
# Every two of so many texts that meet are compared; of more, each with the first and with the next.
_SMALL_RUN = 8
_BATCH_CHARACTERS = 1 << 17
_BATCH_PAIRS = 1 << 16
_GRAM_BASE = np.uint32(0x01000193)
_GENERATOR = np.random.Generator(np.random.PCG64(20240229))
_FACTORS = _GENERATOR.integers(0, 1 << 32, NUM_PERMUTATIONS, dtype=np.uint32) | np.uint32(1)
_SHIFTS = _GENERATOR.integers(0, 1 << 32, NUM_PERMUTATIONS, dtype=np.uint32)
_BAND_FACTORS = _GENERATOR.integers(0, 1 << 63, _BAND_ROWS, dtype=np.uint64) | np.uint64(1)


def signatures(texts: Sequence[str]) -> NDArray[np.uint32]:
    """A signature for each text, (number of texts, 64).

    Args:
        texts: As `comparable` gives them. One of fewer than 20 characters has no signature (all `NO_SIGNATURE`): a
            letter more or less makes it another text.
    """
    result = np.full((len(texts), NUM_PERMUTATIONS), NO_SIGNATURE, dtype=np.uint32)
    long_enough = [index for index, text in enumerate(texts) if len(text) >= MIN_CHARACTERS]
    for batch in _batches(texts, long_enough):
        result[batch] = _sign([texts[index] for index in batch])
    return result


def near_pairs(signed: NDArray[np.uint32], *, threshold: float = THRESHOLD) -> NDArray[np.int64]:
    """Pairs of rows whose signatures agree in at least `threshold` of their places, (number of pairs, 2), sorted.

    Not every such pair is among them: of many that are all alike, each is paired with the first and some more, which is
    enough to group them. Equal texts are best given once.

    Args:
        signed: Signatures.
        threshold: Least share of equal places.
    """
    rows = np.flatnonzero((signed != NO_SIGNATURE).any(axis=1))
    found = [np.empty((0, 2), dtype=np.int64)]
    for band in range(_NUM_BANDS):
        start = band * _BAND_ROWS
        keys = signed[rows, start : start + _BAND_ROWS].astype(np.uint64) @ _BAND_FACTORS
        pairs = rows[_pairs_of_equal(keys)]
        found.append(pairs[estimate_similarity(signed, pairs) >= threshold])
    return np.unique(np.concatenate(found), axis=0)


def estimate_similarity(signed: NDArray[np.uint32], pairs: NDArray[np.int64]) -> NDArray[np.float64]:
    """The share of equal places in the signatures of each pair; off by 0.045 at 0.85 (one standard deviation)."""
    result = np.empty(len(pairs))
    for start in range(0, len(pairs), _BATCH_PAIRS):
        first, second = pairs[start : start + _BATCH_PAIRS].T
        result[start : start + _BATCH_PAIRS] = (signed[first] == signed[second]).mean(axis=1)
    return result


def measure_similarity(first: str, second: str) -> float:
    """The share of the character 4-grams of two comparable texts that both have."""
    grams, others = _grams(first), _grams(second)
    return len(grams & others) / len(grams | others)


def _grams(text: str) -> set[str]:
    return {text[start : start + GRAM] for start in range(max(1, len(text) - GRAM + 1))}


def _batches(texts: Sequence[str], indices: Sequence[int]) -> Iterator[list[int]]:
    """Texts that fit into the processor's cache together."""
    batch: list[int] = []
    size = 0
    for index in indices:
        batch.append(index)
        size += len(texts[index])
        if size >= _BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _sign(texts: Sequence[str]) -> NDArray[np.uint32]:
    """Signatures of texts that all have a 4-gram."""
    grams, starts = _hash_grams(texts)
    result = np.empty((NUM_PERMUTATIONS, len(texts)), dtype=np.uint32)
    permuted = np.empty_like(grams)
    for place, (factor, shift) in enumerate(zip(_FACTORS, _SHIFTS, strict=True)):
        np.multiply(grams, factor, out=permuted)
        np.add(permuted, shift, out=permuted)
        np.minimum.reduceat(permuted, starts, out=result[place])
    return result.T


def _hash_grams(texts: Sequence[str]) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    """The hashes of all 4-grams of texts that stand one after the other, and where each text's begin."""
    codes = np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), dtype="<u4").astype(np.uint32)
    num_grams = len(codes) - GRAM + 1
    grams = codes[:num_grams].copy()
    for offset in range(1, GRAM):
        grams *= _GRAM_BASE
        grams += codes[offset : offset + num_grams]
    # Permutations by one product need well mixed values (the finalizer of MurmurHash3).
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
        grams ^= grams >> np.uint32(shift)
        grams *= np.uint32(factor)
    lengths = np.array([len(text) for text in texts], dtype=np.int64)
    ends = np.cumsum(lengths)
    within = np.ones(len(codes), dtype=bool)
    for offset in range(1, GRAM):
        within[ends - offset] = False
    counts = lengths - GRAM + 1
    return grams[within[:num_grams]], np.cumsum(counts) - counts


def _pairs_of_equal(keys: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Pairs of places with the same key, the smaller first."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    new = np.ones(len(keys), dtype=bool)
    new[1:] = ordered[1:] != ordered[:-1]
    starts = np.flatnonzero(new)
    run = np.cumsum(new) - 1
    sizes = np.diff(np.append(starts, len(keys)))
    first = starts[run]
    places = np.arange(len(keys), dtype=np.int64)
    pairs = [np.stack([order[first], order], axis=1)[places > first]]
    for distance in range(1, _SMALL_RUN):
        # The first of a run has been paired with all; of long runs only neighbours are added.
        later = places - distance > first
        if distance > 1:
            later &= sizes[run] <= _SMALL_RUN
        chosen = places[later]
        pairs.append(np.stack([order[chosen - distance], order[chosen]], axis=1))
    return np.concatenate(pairs)
