"""What hosted tuning services refuse: their limits as published, for `kivnun check --for`.

Reference: OpenAI's fine-tuning guide and error texts (2026), the Azure OpenAI swagger 2024-10-21, and Google's page on
tuning Gemini of 2026-09-25.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from kivnun.data.checks.report import CheckedFile
from kivnun.data.conversation import Conversation
from kivnun.data.findings import Finding

# No tokenizer of today needs fewer tokens for ordinary text, so that only rows that are too long are refused.
CHARACTERS_PER_TOKEN = 4
MEGABYTE, GIGABYTE = 10**6, 10**9


@dataclass(frozen=True)
class Service:
    """A hosted service's limits.

    Attributes:
        title: Its name.
        formats: Formats of rows that it takes, the usual one first.
        min_rows: Fewest training rows.
        max_rows: Most rows, by split.
        max_bytes: Largest file.
        large_files: What to do with a larger one.
        max_tokens: Longest row; longer ones are cut at their end or refused.
        free_keys: Formats whose rows may have any further keys.
        text_only: Formats whose rows may hold no pictures.
        limits_pictures: Whether `check_row`'s rules for pictures, which are OpenAI's, are this service's too.
    """

    title: str
    formats: tuple[str, ...]
    min_rows: int
    max_bytes: int
    large_files: str
    max_tokens: int
    max_rows: Mapping[str, int] = field(default_factory=dict)
    free_keys: frozenset[str] = frozenset()
    text_only: frozenset[str] = frozenset()
    limits_pictures: bool = True


_OPENAI_FORMATS = ("openai-chat", "openai-preference", "openai-reinforcement", "prompt-completion")
SERVICES: dict[str, Service] = {
    "openai": Service(
        title="OpenAI",
        formats=_OPENAI_FORMATS,
        min_rows=10,
        max_bytes=512 * MEGABYTE,
        large_files="/uploads takes up to 8 GB in parts",
        max_tokens=65_536,
        free_keys=frozenset({"openai-reinforcement"}),
        text_only=frozenset({"openai-preference"}),
    ),
    "azure": Service(
        title="Azure OpenAI",
        formats=_OPENAI_FORMATS,
        min_rows=10,
        max_bytes=512 * MEGABYTE,
        large_files="/uploads takes up to 9 GB in parts",
        max_tokens=65_536,
        free_keys=frozenset({"openai-reinforcement"}),
        text_only=frozenset({"openai-preference"}),
    ),
    "gemini": Service(
        title="Gemini",
        formats=("gemini", "gemini-preference"),
        min_rows=1,
        max_bytes=GIGABYTE,
        large_files="cut it into several jobs",
        max_tokens=131_072,
        max_rows={"train": 10_000_000, "validation": 5_000},
        text_only=frozenset({"gemini-preference"}),
        limits_pictures=False,
    ),
}


def check_hosted_rows(
    conversations: Sequence[Conversation], lines: Sequence[int], file: str, format_name: str, service: Service
) -> list[Finding]:
    """Rows that a service would cut or refuse."""
    findings: list[Finding] = []
    keys_are_free = format_name in service.free_keys or format_name not in service.formats
    for conversation, line in zip(conversations, lines, strict=True):
        if conversation.extra and not keys_are_free:
            keys = ", ".join(map(repr, sorted(conversation.extra)))
            findings.append(Finding("hosted-field", file, line, f"{service.title} does not know {keys}"))
        if format_name in service.text_only and any(message.images for message in conversation.messages):
            findings.append(Finding("hosted-images", file, line, f"{service.title} takes no pictures in {format_name}"))
        for number, message in enumerate(conversation.messages, start=1):
            if message.trained and message.weight != 1:
                words = f"turn {number} has weight {message.weight:g}; {service.title} takes 0 and 1 alone"
                findings.append(Finding("weight-invalid", file, line, words))
        size = sum(len(message.content) for message in conversation.messages)
        if size > CHARACTERS_PER_TOKEN * service.max_tokens:
            words = f"{size:,} characters are more than {service.title}'s {service.max_tokens:,} tokens"
            findings.append(Finding("hosted-length", file, line, words))
    return findings


def check_hosted_files(files: Sequence[CheckedFile], service: Service) -> Iterator[Finding]:
    """Files of a wrong kind, and too few or too many rows."""
    for file in files:
        yield from _check_file(file, service)
    for split in dict.fromkeys(file.split for file in files):
        part = [file for file in files if file.split == split]
        rows = sum(file.num_rows for file in part)
        most = service.max_rows.get(split)
        if split == "train" and rows < service.min_rows:
            words = f"{rows} training rows; {service.title} wants {service.min_rows} or more"
            yield Finding("hosted-rows", part[0].path, 0, words)
        elif most is not None and rows > most:
            words = f"{rows:,} {split} rows; {service.title} takes {most:,}"
            yield Finding("hosted-rows", part[0].path, 0, words)
    graded = [file for file in files if file.format == "openai-reinforcement" and file.format in service.formats]
    if graded and all(file.split != "validation" for file in files):
        words = f"no validation rows; {service.title} wants some for reinforcement"
        yield Finding("hosted-rows", graded[0].path, 0, words)


def _check_file(file: CheckedFile, service: Service) -> Iterator[Finding]:
    if file.format and file.format not in service.formats:
        words = f"the rows are {file.format}; {service.title} takes {', '.join(service.formats)}"
        yield Finding("hosted-format", file.path, 0, words)
    elif file.layout != "jsonl":
        yield Finding("hosted-format", file.path, 0, f"the file is {file.layout}; {service.title} takes JSONL only")
    elif not file.path.lower().endswith(".jsonl"):
        words = f"{service.title} takes plain files whose names end in .jsonl"
        yield Finding("hosted-format", file.path, 0, words)
    if file.size_bytes > service.max_bytes:
        limit = f"{service.title} takes {service.max_bytes / MEGABYTE:,.0f} MB; {service.large_files}"
        yield Finding("hosted-size", file.path, 0, f"{file.size_bytes / MEGABYTE:,.0f} MB; {limit}")
