"""What a comparison may use: minutes of this machine and dollars of services, counted over all its commands."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kivnun.runs import write_atomic

SPENT_NAME = "spent.json"
SECONDS_PER_MINUTE = 60.0


@dataclass
class Budget:
    """Limits and what was used so far.

    Attributes:
        folder: The folder of the comparison, where the sums are kept.
        minutes: Longest time on this machine; None for no limit.
        dollars: Most that services may cost; None for no limit.
        used_seconds: Time used on arms by this and earlier commands.
        payments: Dollars of services by what they were paid for, by the price table.
    """

    folder: Path
    minutes: float | None
    dollars: float | None
    used_seconds: float = 0.0
    payments: dict[str, float] = field(default_factory=dict[str, float])

    @property
    def used_dollars(self) -> float:
        """What services were paid, by the price table."""
        return sum(self.payments.values())

    def why_not(self, *, seconds: float, dollars: float) -> str:
        """Why something no longer fits, with the figures; "" where it does.

        Args:
            seconds: What it will take on this machine.
            dollars: What services will charge for it at most.
        """
        reasons: list[str] = []
        if self.minutes is not None and self.used_seconds + seconds > self.minutes * SECONDS_PER_MINUTE:
            reasons.append(
                f"about {seconds / SECONDS_PER_MINUTE:.1f} minutes more, where {self.used_seconds / 60:.1f} of "
                f"decide.budget_minutes = {self.minutes:g} are used"
            )
        if self.dollars is not None and dollars > 0 and self.used_dollars + dollars > self.dollars:
            reasons.append(
                f"up to ${dollars:.2f} more, where ${self.used_dollars:.2f} of decide.budget_dollars = "
                f"{self.dollars:g} are spent"
            )
        return f"over budget: {'; '.join(reasons)}" if reasons else ""

    def pay(self, purpose: str, dollars: float) -> None:
        """Note what all answers of one kind cost; noting it again, after an interruption, pays nothing twice.

        Args:
            purpose: What they were for.
            dollars: What all of them cost, those that were answered earlier among them.
        """
        if dollars:
            self.payments[purpose] = dollars
            self._write()

    def _write(self) -> None:
        values = {"seconds": round(self.used_seconds, 6), "payments": self.payments}
        write_atomic(self.folder / SPENT_NAME, json.dumps(values, indent=1) + "\n")

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Count the time of a block, one that fails or is interrupted too."""
        begun = time.monotonic()
        try:
            yield
        finally:
            self.used_seconds += time.monotonic() - begun
            self._write()


def open_budget(folder: Path, *, minutes: float | None, dollars: float | None) -> Budget:
    """The budget of a comparison with what its earlier commands used."""
    path = folder / SPENT_NAME
    kept: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.exists() else {}
    return Budget(folder, minutes, dollars, kept.get("seconds", 0.0), kept.get("payments", {}))
