"""A job's files under every check that the run will make, in one pass of bounded memory."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from kivnun.data.checks.report import CheckReport
from kivnun.data.checks.stream import CheckOptions, check_data
from kivnun.data.checks.token_pass import TokenPass
from kivnun.data.checks.tokens import TokenLimits
from kivnun.data.conversation import Conversation
from kivnun.data.encode import Encoder
from kivnun.data.files.dataset import DataFile, DataSet, Split
from kivnun.data.findings import Finding
from kivnun.jobs.hyperparameters import MethodName
from kivnun.jobs.job_error import TRAINING_FILE, VALIDATION_FILE
from kivnun.jobs.job_files import COPY_NAMES

TOO_LONG = frozenset({"answer-cut", "prompt-too-long"})
PARAMS: Mapping[Split, str] = {"train": TRAINING_FILE, "validation": VALIDATION_FILE}
TITLES: Mapping[str, str] = {split: name.replace("_", " ").capitalize() for split, name in PARAMS.items()}
NO_TURNS = "prompt and completion should be texts for a model that completes texts, and not lists of turns"


@dataclass(frozen=True)
class FilesOfJob:
    """What is to be validated.

    Attributes:
        training: The training file.
        validation: The validation file, if there is one.
        folder: The job's folder, which gets `training.jsonl` and `validation.jsonl`.
        model: The model as the client named it.
        base_model: What it stands for here: `bundled`, a folder or a Hugging Face id.
        method: What is learnt from the rows.
        strict: Whether files are refused that the hosted service refuses.
    """

    training: Path
    validation: Path | None
    folder: Path
    model: str
    base_model: str
    method: MethodName
    strict: bool = False

    @property
    def sources(self) -> dict[Split, Path]:
        """The files as they were uploaded, by split."""
        given: dict[Split, Path] = {"train": self.training}
        return given if self.validation is None else {**given, "validation": self.validation}

    def copy_of(self, split: Split) -> Path:
        """The job's own copy."""
        return self.folder / COPY_NAMES[split]


@dataclass(frozen=True)
class CheckedFiles:
    """What was found in the files of a job.

    Attributes:
        report: Of every check.
        too_long: Lines of rows that are longer than the model reads, by split.
    """

    report: CheckReport
    too_long: Mapping[str, set[int]]

    @property
    def codes(self) -> frozenset[str]:
        """Of all that was found."""
        return frozenset(found.code for found in self.report.found)

    @property
    def formats(self) -> dict[str, str]:
        """What the rows were taken for, by split; "" for rows of no known kind."""
        return {file.split: file.format for file in self.report.files}

    def num_rows(self, split: str) -> int:
        """Rows of a split."""
        return sum(file.num_rows for file in self.report.files if file.split == split)

    def num_left(self, split: str) -> int:
        """Rows of a split that the model can read."""
        return self.num_rows(split) - len(self.too_long.get(split, ()))

    def num_tokens(self, split: str) -> int:
        """Tokens of a split, with those of the rows that are too long."""
        tokens = cast("dict[str, dict[str, int]]", self.report.statistics.get(split, {}).get("tokens", {}))
        return tokens.get("row_tokens", {}).get("total", 0)

    def findings(self, split: str, severity: str) -> Iterator[Finding]:
        """What was found in the rows of a split, up to 20 of each kind."""
        path = next((file.path for file in self.report.files if file.split == split), "")
        for found in self.report.found:
            if found.severity == severity:
                yield from (example for example in found.examples if example.file == path)


class _JobTokens:
    """The token checks, which remember the lines of rows that are too long."""

    def __init__(self, encoder: Encoder, limits: TokenLimits) -> None:
        self._checks = TokenPass(encoder, limits)
        self._are_texts = limits.template.kind == "text"
        self.judge, self.summary = self._checks.judge, self._checks.summary
        self.too_long: dict[str, set[int]] = {}

    def check(
        self, conversations: Sequence[Conversation], lines: Sequence[int], file: str, split: str
    ) -> Sequence[Finding]:
        """What is wrong with some rows of a file."""
        unfit: list[Finding] = []
        if self._are_texts:
            pairs = list(zip(conversations, lines, strict=True))
            unfit = [Finding("field-type", file, line, NO_TURNS) for row, line in pairs if len(row.messages) != 2]
            pairs = [(row, line) for row, line in pairs if len(row.messages) == 2]
            conversations, lines = [row for row, _ in pairs], [line for _, line in pairs]
        findings = self._checks.check(conversations, lines, file, split)
        long = {finding.line for finding in findings if finding.code in TOO_LONG}
        self.too_long.setdefault(split, set()).update(long)
        return [*unfit, *findings]


def check_files(files: FilesOfJob, encoder: Encoder, limits: TokenLimits) -> CheckedFiles:
    """Check the copies of a job's files.

    Args:
        files: Whose copies lie in the job's folder.
        encoder: The model's tokenizer.
        limits: How rows are written, and how long they may be.
    """
    tokens = _JobTokens(encoder, limits)
    found = tuple(DataFile(files.copy_of(split), "jsonl", split, "as the job says") for split in files.sources)
    service = "openai" if files.strict else None
    options = CheckOptions(near="off", service=service, num_workers=1, tokens=tokens)
    return CheckedFiles(check_data(DataSet("the files of the job", found), options), tokens.too_long)
