import re
import shlex
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import pytest
from typer.testing import CliRunner

from kivnun.cli.app import app
from kivnun.data.findings import CHECKS
from kivnun.data.formats import FORMATS
from kivnun.errors import CODES
from kivnun.recipe.explain import describe_fields

CODE_BLOCK = re.compile(r"^```(?:bash|sh|console)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")
# Their own words stand in generated pages, so those are compared only with the versions that made them.
SPEAKING_LIBRARIES = ("jsonschema", "orjson", "pydantic", "typer")
# They name a process or a machine, or tell of a package that is not there.
WITHOUT_EXAMPLE = {
    "answer-failed",
    "azure-credentials",
    "azure-failed",
    "constraint-failed",
    "database-newer",
    "dependency-missing",
    "endpoint-failed",
    "engine-failed",
    "estimate-failed",
    "memory-full",
    "model-too-large",
    "process-lost",
    "processes-differ",
    "run-locked",
    "server-running",
}
# Too many rows or bytes for an example, found by `convert`, or never with the bundled tokenizer.
CHECKS_WITHOUT_EXAMPLE = {"duplicate-not-searched", "format-loss", "hosted-size", "tokens-unknown"}
DIRECTORIES = ("tutorial", "howto", "reference", "explanation", "decisions")


def pages(root: Path) -> list[Path]:
    docs = [*(root / "docs").rglob("*.md")]
    return [path for path in (root / "README.md", root / "CONTRIBUTING.md", *sorted(docs)) if path.is_file()]


def test_reference_pages_are_what_the_code_says(generator: ModuleType, root: Path) -> None:
    locked = dict(re.findall(r"^([\w.-]+)==(\S+)$", (root / "requirements.lock").read_text("utf-8"), re.MULTILINE))
    for library in SPEAKING_LIBRARIES:
        if version(library) != locked[library]:
            pytest.skip(f"pages are made with {library} {locked[library]}, this is {version(library)}")
    assert generator.stale_pages() == []


def test_every_error_code_has_a_section_and_every_section_is_a_code(root: Path) -> None:
    sections = re.findall(r"^## (.+)$", (root / "docs/reference/errors.md").read_text("utf-8"), re.MULTILINE)
    assert sections == sorted(CODES)


def test_every_error_code_has_a_note(generator: ModuleType) -> None:
    assert set(generator.NOTES) == set(CODES)


def test_every_example_shows_the_error_of_its_section(generator: ModuleType) -> None:
    examples = {code: note.example() for code, note in generator.NOTES.items()}
    assert {code for code, text in examples.items() if text is None} == WITHOUT_EXAMPLE
    wrong = [code for code, text in examples.items() if text and not text.startswith(f"error[{code}]: ")]
    assert wrong == []


def test_every_check_has_a_note(generator: ModuleType) -> None:
    notes = generator.CHECK_NOTES
    assert set(notes) == set(CHECKS)
    assert [code for code, note in notes.items() if not note.why.strip()] == []
    assert {code for code, note in notes.items() if not note.files} == CHECKS_WITHOUT_EXAMPLE


def test_every_check_has_a_section_and_every_section_is_a_check(root: Path) -> None:
    sections = re.findall(r"^### (.+)$", (root / "docs/reference/checks.md").read_text("utf-8"), re.MULTILINE)
    assert sorted(sections) == sorted(CHECKS)


def test_every_example_shows_the_finding_of_its_check(generator: ModuleType) -> None:
    found = {code: note.find(code) for code, note in generator.CHECK_NOTES.items() if note.files}
    assert [code for code, pair in found.items() if pair is None or pair[0].code != code] == []


def test_every_format_has_a_note_whose_row_is_read(generator: ModuleType) -> None:
    notes = generator.FORMAT_NOTES
    assert set(notes) == set(FORMATS)
    assert [name for name, note in notes.items() if not note.is_recognised(name) or not note.read(name).messages] == []


def test_every_format_has_a_section_and_every_section_is_a_format(root: Path) -> None:
    text = (root / "docs/reference/formats.md").read_text("utf-8")
    sections = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert sections == ["What each format holds", *FORMATS]


def test_every_recipe_field_is_explained() -> None:
    assert [doc.path for doc in describe_fields() if not doc.meaning.strip()] == []


@pytest.mark.parametrize("directory", DIRECTORIES)
def test_every_kind_of_documentation_has_pages(root: Path, directory: str) -> None:
    assert list((root / "docs" / directory).glob("*.md"))


def test_every_link_between_pages_leads_somewhere(root: Path) -> None:
    broken = [
        f"{page.relative_to(root)}: {target}"
        for page in pages(root)
        for target in LINK.findall(page.read_text("utf-8"))
        if not (page.parent / target).exists() and not (root / target).exists()
    ]
    assert broken == []


def test_every_page_is_in_the_navigation(root: Path) -> None:
    listed = set(re.findall(r"[\w/-]+\.md", (root / "mkdocs.yml").read_text("utf-8")))
    written = {str(page.relative_to(root / "docs")) for page in (root / "docs").rglob("*.md")}
    assert listed == written


def test_every_command_shown_has_a_verb_and_options_that_exist(root: Path, generator: ModuleType) -> None:
    verbs = {*generator.list_verbs(app)}
    helps = {verb: CliRunner().invoke(app, [*verb, "--help"]).output for verb in verbs}
    problems = []
    for page in pages(root):
        for words in commands(page.read_text("utf-8")):
            verb = next((tuple(words[:size]) for size in (2, 1) if tuple(words[:size]) in verbs), None)
            if verb is None and words not in (["--help"], ["--version"]):
                problems.append(f"{page.name}: {words}")
            options = {word.partition("=")[0] for word in words if word.startswith("--")}
            problems += [f"{page.name}: {verb} {option}" for option in options if verb and option not in helps[verb]]
    assert problems == []


def commands(text: str) -> list[list[str]]:
    """The words after `kivnun` of every command in the page's shell blocks."""
    lines = [line for block in CODE_BLOCK.findall(text) for line in block.replace("\\\n", " ").splitlines()]
    found = []
    for line in lines:
        words = shlex.split(line.removeprefix("$ "), comments=True)
        if words and words[0].rpartition("/")[2] == "kivnun":
            plain = [word for word in words[1:] if word not in {">", "|", "2>"}]
            found.append(plain)
    return found
