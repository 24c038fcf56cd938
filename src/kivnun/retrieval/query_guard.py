"""Whether an embedder can read a text, found without labels: a tokenizer that knows a language uses few tokens for it.

Measured with MiniLM's English tokenizer, tokens per letter: English 0.27; Hebrew, Arabic and Russian 0.9 to 1. Vectors
of text that is spelled out letter by letter say next to nothing: mixed into a search of words they halve its quality.
"""

from collections.abc import Callable
from dataclasses import dataclass

from kivnun.data.checks.scripts import count_scripts

MAX_TOKENS_PER_LETTER = 0.55
# A single name may be rare in any language.
MAX_TOKENS_PER_LETTER_SHORT = 0.75
SHORT_LETTERS = 20
# A letter of these is a syllable or a word. Vocabularies that know Chinese well have a token for each sign, those that
# know Japanese or Korean fewer tokens than syllables.
DENSE_LIMITS = {"Han": 1.2, "Bopomofo": 1.2, "Hiragana": 0.9, "Katakana": 0.9, "Hangul": 0.9}
MAX_UNKNOWN = 0.1


@dataclass(frozen=True)
class TokenCounter:
    """What the guard asks a tokenizer.

    Attributes:
        tokens: Counts the tokens of a text.
        unknown: Counts those that the vocabulary has no word for.
    """

    tokens: Callable[[str], int]
    unknown: Callable[[str], int]


def can_read(text: str, counter: TokenCounter) -> bool:
    """Whether a tokenizer's model may be taken to read a text; digits and signs do not count, nor does a text of none.

    Args:
        text: The text.
        counter: The tokenizer.
    """
    letters = "".join(sign if sign.isalpha() else " " for sign in text)
    words = " ".join(letters.split())
    scripts = count_scripts(words)
    num_letters = sum(scripts.values())
    if num_letters == 0:
        return True
    num_tokens = counter.tokens(words)
    if num_tokens == 0 or counter.unknown(words) / num_tokens > MAX_UNKNOWN:
        return False
    return num_tokens / num_letters <= _limit(scripts, num_letters)


def _limit(scripts: dict[str, int], num_letters: int) -> float:
    """The most tokens per letter, in proportion where a text is of several scripts."""
    plain = MAX_TOKENS_PER_LETTER_SHORT if num_letters < SHORT_LETTERS else MAX_TOKENS_PER_LETTER
    return sum(count * DENSE_LIMITS.get(script, plain) for script, count in scripts.items()) / num_letters
