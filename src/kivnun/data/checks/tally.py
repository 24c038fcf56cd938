"""Counting what checks find, without holding it: how often each code, and its first places."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from kivnun.data.findings import Finding

MAX_EXAMPLES = 20


@dataclass(slots=True)
class Tally:
    """How often each code was found, and where first; parts of a stream merge in their order.

    Attributes:
        counts: How often, by code.
        examples: The first `MAX_EXAMPLES` findings, by code.
    """

    counts: Counter[str] = field(default_factory=Counter[str])
    examples: dict[str, list[Finding]] = field(default_factory=dict[str, list[Finding]])

    def add(self, findings: Iterable[Finding]) -> None:
        """Count some findings."""
        for finding in findings:
            self.counts[finding.code] += 1
            kept = self.examples.setdefault(finding.code, [])
            if len(kept) < MAX_EXAMPLES:
                kept.append(finding)

    def add_unshown(self, code: str, count: int) -> None:
        """Count findings whose places are not known."""
        if count:
            self.counts[code] += count
            self.examples.setdefault(code, [])

    def merge(self, later: "Tally") -> None:
        """Take in what was found behind this part of the stream."""
        self.counts.update(later.counts)
        for code, findings in later.examples.items():
            kept = self.examples.setdefault(code, [])
            kept += findings[: MAX_EXAMPLES - len(kept)]
