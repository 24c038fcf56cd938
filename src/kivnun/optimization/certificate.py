"""`parity.json`: the certificate of the forms of a model: what was asked, what came out, and the hash of every file.

Each form's folder gets its own copy, with the golden prompts and the tuned model's answers, so that the folder can be
verified by itself on any machine.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

import orjson

from kivnun.errors import UserError
from kivnun.generation.agreement import ParityRow
from kivnun.optimization.golden import GOLDEN_NAME, Golden, write_golden
from kivnun.optimization.reference import REFERENCE_NAME, Reference, write_reference
from kivnun.recipe.optimization import OptimizationSection
from kivnun.runs import hash_file, library_versions, write_atomic
from kivnun.runs.manifest import artifact_files, now

PARITY_NAME = "parity.json"
VERSION = 1
OWN_FILES = (GOLDEN_NAME, REFERENCE_NAME, PARITY_NAME)

Hashes = Mapping[str, str]
"""SHA-256 of files by their path in a folder."""


@dataclass(frozen=True)
class Thresholds:
    """What was required of the forms.

    Attributes:
        tie_tolerance: Difference of two logits up to which either token counts as the best.
        min_agreement: Least share of identical answers of every quantised form; None for no bound.
        max_divergence: Largest divergence of every quantised form; None for no bound.
    """

    tie_tolerance: float
    min_agreement: float | None
    max_divergence: float | None


@dataclass(frozen=True)
class Certificate:
    """The content of `parity.json`.

    Attributes:
        created: When, in UTC.
        versions: Kivnun and the libraries that made the forms.
        golden: SHA-256 of `golden.json`.
        fixed_at: "training" where `golden.json` lay in `model/` before any form was made, else "optimization".
        reference: SHA-256 of `reference.json`.
        thresholds: What was required.
        rows: A row for every form that was made.
        files: Hashes of each kept form's files, by its folder.
        shipped: Folder of the form that answers when nothing else is said.
        this: Of the copy in a form's folder: which one it is; None beside the folders.
    """

    created: str
    versions: Mapping[str, str]
    golden: str
    fixed_at: str
    reference: str
    thresholds: Thresholds
    rows: Sequence[ParityRow]
    files: Mapping[str, Hashes]
    shipped: str
    this: str | None = None

    @property
    def verdict(self) -> str:
        """The verdict on all kept forms together."""
        unchecked = [row.name for row in self.rows if row.verdict == "not run here"]
        return f"passed; not run here: {', '.join(unchecked)}" if unchecked else "passed"

    def row(self, folder: str) -> ParityRow:
        """The row of a kept form."""
        return next(row for row in self.rows if row.folder == folder)

    def to_json(self) -> bytes:
        """The text of the file."""
        fields = {"version": VERSION, "verdict": self.verdict, **asdict(self)}
        return orjson.dumps(fields, option=orjson.OPT_INDENT_2) + b"\n"


def seal(
    folder: Path,
    golden: Golden,
    reference: Reference,
    rows: Sequence[ParityRow],
    settings: OptimizationSection,
    *,
    shipped: str,
    fixed_at: str,
) -> Certificate:
    """Write the certificate beside the forms and, with prompts and answers, into the folder of each.

    Args:
        folder: The `optimized/` folder with all forms that are kept.
        golden: What was asked.
        reference: What the tuned model answered.
        rows: What was measured.
        settings: What was required.
        shipped: Folder of the form that answers when nothing else is said.
        fixed_at: See `Certificate`.
    """
    kept = [row.folder for row in rows if row.folder is not None]
    files = {name: hash_files(folder / name) for name in kept}
    for place in (folder, *(folder / name for name in kept)):
        write_golden(place, golden)
        write_reference(place, reference)
    thresholds = Thresholds(settings.tie_tolerance, settings.min_agreement, settings.max_divergence)
    hashes = [hash_file(folder / name) for name in (GOLDEN_NAME, REFERENCE_NAME)]
    about = (now(), library_versions(), hashes[0], fixed_at, hashes[1], thresholds, tuple(rows), files, shipped)
    for this in (None, *kept):
        place = folder if this is None else folder / this
        write_atomic(place / PARITY_NAME, Certificate(*about, this=this).to_json())
    return Certificate(*about)


def hash_files(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of a form, without those of the certificate itself."""
    return {name: hash_file(folder / name) for name in artifact_files(folder) if name not in OWN_FILES}


def read_certificate(folder: Path) -> Certificate:
    """The certificate in a folder.

    Raises:
        UserError: `run-missing` where there is none; `artifact-damaged` where it cannot be read.
    """
    path = folder / PARITY_NAME
    if not path.is_file():
        raise UserError(
            "run-missing",
            f"{folder} has no {PARITY_NAME}, the certificate that it could be verified by",
            hint="give a run, its optimized/ folder, or the folder of one form in it",
        )
    try:
        return _parse(orjson.loads(path.read_bytes()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            "artifact-damaged",
            f"{path} cannot be read as a certificate ({error})",
            hint="run the recipe again to make the folder anew",
        ) from error


def require_whole(folder: Path, certificate: Certificate, form: str) -> None:
    """Refuse a form whose files are not those that were certified; files beside them are nobody's concern.

    Args:
        folder: The form's folder.
        certificate: From its `parity.json`, or from the one beside the folders.
        form: Which of the certificate's forms it is.

    Raises:
        UserError: `artifact-damaged`, naming every file that is missing or differs.
    """
    expected = {**certificate.files[form], GOLDEN_NAME: certificate.golden, REFERENCE_NAME: certificate.reference}
    details = [problem for name, sha256 in sorted(expected.items()) if (problem := _differs(folder / name, sha256))]
    if details:
        raise UserError(
            "artifact-damaged",
            f"{len(details)} of {len(expected)} files of {folder} are not those that were certified",
            hint="copy the folder again from where it was made, or run the recipe again",
            details=details,
        )


def read_parity(folder: Path) -> list[ParityRow]:
    """The parity table of a finished `optimized/` folder; older runs wrote the rows alone."""
    values = orjson.loads((folder / PARITY_NAME).read_bytes())
    return [ParityRow(**row) for row in (values if isinstance(values, list) else values["rows"])]


def onnx_folder(folder: Path) -> Path:
    """The ONNX model in an `optimized/` folder that is shipped."""
    if (folder / PARITY_NAME).is_file():
        values = orjson.loads((folder / PARITY_NAME).read_bytes())
        if isinstance(values, dict):
            return folder / str(cast("dict[str, object]", values)["shipped"])
    # Runs made before the certificate was.
    return next((folder / name for name in ("onnx-int4",) if (folder / name).is_dir()), folder / "onnx-fp32")


def _differs(path: Path, sha256: str) -> str | None:
    if not path.is_file():
        return f"{path}: is missing"
    return None if hash_file(path) == sha256 else f"{path}: differs from what was certified"


def _parse(value: object) -> Certificate:
    if isinstance(value, list):
        raise ValueError("it was written by an earlier version, without hashes")  # noqa: TRY004 - a damaged file
    fields = dict(cast("dict[str, object]", value))
    if fields.pop("version") != VERSION:
        raise ValueError(f"its version is not {VERSION}")
    del fields["verdict"]
    rows = tuple(ParityRow(**row) for row in cast("list[dict[str, object]]", fields.pop("rows")))  # type: ignore[arg-type]
    thresholds = Thresholds(**cast("dict[str, float]", fields.pop("thresholds")))
    certificate = Certificate(rows=rows, thresholds=thresholds, **fields)  # type: ignore[arg-type]
    if {row.folder for row in rows} - {None} != set(certificate.files):
        raise ValueError("rows and files name other forms")
    if not {certificate.shipped, certificate.this or certificate.shipped} <= set(certificate.files):
        raise ValueError("it is about a form of which it has no files")
    return certificate
