"""What rows look like to a model: tokens, what of them is learnt, and what a character costs in each script."""

from collections import Counter
from dataclasses import dataclass, field

from kivnun.data.checks.statistics import LengthCounts, summarise_lengths


@dataclass(slots=True)
class TokenStatistics:
    """What rows look like to a model. Parts merge, and their size does not grow with the rows.

    Attributes:
        rows: Tokens of whole rows.
        trained_tokens: Tokens that are learnt.
        characters: Characters of the rows' texts as the model reads them.
        too_long_rows: Rows that are longer than the limit.
        untrained_rows: Rows that nothing is learnt from.
        refused_rows: Rows that the chat template does not write.
        system_rows: Rows with a system turn.
        script_tokens: Tokens of an even sample of the turns, by the script of most of their letters.
        script_characters: Characters of the same sample.
    """

    rows: LengthCounts = field(default_factory=LengthCounts)
    trained_tokens: int = 0
    characters: int = 0
    too_long_rows: int = 0
    untrained_rows: int = 0
    refused_rows: int = 0
    system_rows: int = 0
    script_tokens: Counter[str] = field(default_factory=Counter[str])
    script_characters: Counter[str] = field(default_factory=Counter[str])

    def merge(self, other: "TokenStatistics") -> None:
        """Take in another part."""
        self.rows.merge(other.rows)
        self.trained_tokens += other.trained_tokens
        self.characters += other.characters
        self.too_long_rows += other.too_long_rows
        self.untrained_rows += other.untrained_rows
        self.refused_rows += other.refused_rows
        self.system_rows += other.system_rows
        self.script_tokens.update(other.script_tokens)
        self.script_characters.update(other.script_characters)

    @property
    def trained_share(self) -> float:
        """The share of all tokens that is learnt; 0 where there are none."""
        return self.trained_tokens / self.rows.total if self.rows.total else 0.0

    @property
    def tokens_per_character(self) -> dict[str, float]:
        """By script, over the sample."""
        return {script: self.script_tokens[script] / count for script, count in self.script_characters.most_common()}

    def summary(self) -> dict[str, object]:
        """The figures as plain values."""
        return {
            "rows": self.rows.num_texts,
            "row_tokens": summarise_lengths(self.rows),
            "trained_tokens": self.trained_tokens,
            "trained_share": round(self.trained_share, 4),
            "characters": self.characters,
            "tokens_per_character": {name: round(ratio, 3) for name, ratio in self.tokens_per_character.items()},
            "too_long_rows": self.too_long_rows,
            "untrained_rows": self.untrained_rows,
            "refused_rows": self.refused_rows,
        }
