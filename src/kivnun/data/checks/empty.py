"""Prompts without a word: the model would learn to give an answer to nothing."""

from collections.abc import Sequence

from kivnun.data.conversation import Conversation
from kivnun.data.findings import Finding


def check_empty_prompts(conversations: Sequence[Conversation], lines: Sequence[int], file: str) -> list[Finding]:
    """User turns that are empty or white space only, and show no picture."""
    findings: list[Finding] = []
    for conversation, line in zip(conversations, lines, strict=True):
        for number, message in enumerate(conversation.messages, start=1):
            content = message.content
            if message.role == "user" and (not content or content.isspace()) and not message.images:
                what = f"holds only {len(content)} characters of white space" if content else "is empty"
                findings.append(Finding("field-empty", file, line, f"turn {number} (user) {what}"))
    return findings
