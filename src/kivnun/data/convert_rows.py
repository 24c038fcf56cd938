"""Rows in another format, one by one: what they lose is counted, and what must not be lost is kept for the report."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from kivnun.data.conversation import Conversation
from kivnun.data.findings import CHECKS, Finding, RowError
from kivnun.data.formats.base import Format
from kivnun.data.rows import Row
from kivnun.errors import UserError

SHOWN_PROBLEMS = 20


class Ledger:
    """What is wrong, what was left out and how many rows there were, for all files of a conversion together.

    Args:
        to: The format that is written.
        drop_extra: Whether further columns that the format cannot hold are left out.
        notes: What is worth knowing already.
    """

    def __init__(self, to: Format, *, drop_extra: bool, notes: Sequence[Finding] = ()) -> None:
        self.num_rows = 0
        self.notes = list(notes)
        self.num_notes = len(self.notes)
        self.dropped: Counter[str] = Counter()
        self._to = to
        self._drop_extra = drop_extra
        self._faults: list[Finding] = []
        self._losses_found: list[Finding] = []
        self._num_problems: Counter[str] = Counter()
        self._num_bad_rows = 0
        self._num_only_keys = 0
        self._lost_keys: set[str] = set()

    @property
    def is_clean(self) -> bool:
        """Whether there is nothing to refuse so far."""
        return not self._num_problems

    def note(self, finding: Finding) -> None:
        """Take what was found in a file: errors are refused, the rest is told."""
        if CHECKS[finding.code].severity == "error":
            self._refuse_later([finding])
            return
        self.num_notes += 1
        if len(self.notes) < SHOWN_PROBLEMS:
            self.notes.append(finding)

    def convert(self, row: Row, source: Format) -> Mapping[str, object] | None:
        """The row as the other format writes it; None where it is refused.

        Args:
            row: The row.
            source: The format that it is in.
        """
        self.num_rows += 1
        try:
            return self._write(source.read(row))
        except RowError as error:
            self._num_bad_rows += 1
            self._refuse_later(error.findings)
        except RecursionError:
            self._num_bad_rows += 1
            self._refuse_later([Finding("json-syntax", row.file, row.line, "objects are nested too deeply")])
        return None

    def refuse(self, name: str) -> None:
        """Raise what was found, if anything must not be.

        Args:
            name: The data, as the user named them.

        Raises:
            UserError: `format-loss`, or `data-malformed` where rows cannot even be read, or `data-empty`.
        """
        # What cannot be read comes first: a single broken line among thousands of losses must be seen.
        shown = [*self._faults, *self._losses_found][:SHOWN_PROBLEMS]
        details = [f"{finding.where}: {finding.message}" for finding in shown]
        total, num_losses = self._num_problems.total(), self._num_problems["format-loss"]
        if total > len(details):
            details.append(f"... and {total - len(details):,} more")
        if not self.num_rows and total == self._num_problems["file-empty"]:
            raise UserError("data-empty", f"{name}: no rows", hint="check that the file is the one you meant")
        if total > num_losses:
            lost = f", and {num_losses:,} thing(s) would be lost as `{self._to.name}`" if num_losses else ""
            raise UserError(
                "data-malformed",
                f"{name}: {total - num_losses:,} problem(s) in {self.num_rows:,} row(s){lost}; nothing was written",
                details=details,
                hint="mend these rows or take them out; `kivnun check` tells more of them",
            )
        if total:
            columns = ", ".join(sorted(self._lost_keys))
            raise UserError(
                "format-loss",
                f"{name}: {total:,} thing(s) in {self.num_rows:,} row(s) would be lost as `{self._to.name}`; "
                "nothing was written",
                details=details,
                hint=f"--drop-extra leaves out the further columns: {columns}"
                if columns and self._num_only_keys == self._num_bad_rows
                else "choose another format with --to, or take out what it cannot hold",
            )

    def _write(self, conversation: Conversation) -> Mapping[str, object]:
        """The conversation as a row, without further columns that the format cannot hold where they may be dropped."""
        if self._to.write is None:
            raise AssertionError(f"{self._to.name} is only read")
        kept = self._without(self._lost_keys, conversation) if self._drop_extra else conversation
        try:
            return self._count_dropped(conversation, kept, self._to.write(kept))
        except RowError:
            lost = self._find_lost_keys(kept)
            self._lost_keys |= lost
            rest = self._without(lost, kept)
            if not lost or self._losses(rest):
                raise
            if not self._drop_extra:
                self._num_only_keys += 1
                raise
            return self._count_dropped(conversation, rest, self._to.write(rest))

    def _count_dropped(
        self, conversation: Conversation, kept: Conversation, fields: Mapping[str, object]
    ) -> Mapping[str, object]:
        self.dropped.update(key for key in conversation.extra if key not in kept.extra)
        return fields

    def _find_lost_keys(self, conversation: Conversation) -> set[str]:
        """The further columns that the format has no room for."""
        others = self._losses(replace(conversation, extra={}))
        return {
            key
            for key, value in conversation.extra.items()
            if len(self._losses(replace(conversation, extra={key: value}))) > len(others)
        }

    def _losses(self, conversation: Conversation) -> Sequence[Finding]:
        try:
            if self._to.write is not None:
                self._to.write(conversation)
        except RowError as error:
            return error.findings
        return ()

    @staticmethod
    def _without(keys: set[str], conversation: Conversation) -> Conversation:
        if keys.isdisjoint(conversation.extra):
            return conversation
        kept = {key: value for key, value in conversation.extra.items() if key not in keys}
        return replace(conversation, extra=kept)

    def _refuse_later(self, findings: Sequence[Finding]) -> None:
        self._num_problems.update(finding.code for finding in findings)
        for finding in findings:
            kept = self._losses_found if finding.code == "format-loss" else self._faults
            if len(kept) < SHOWN_PROBLEMS:
                kept.append(finding)
