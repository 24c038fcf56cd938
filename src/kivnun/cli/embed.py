"""`kivnun embed`: the vectors of texts, from a run with the objective contrastive."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

VECTOR_SUFFIXES = (".npy", ".jsonl")


def embed(
    run: Annotated[str, typer.Argument(help="The run: its name or its folder.", show_default=False)],
    text: Annotated[list[str] | None, typer.Argument(help="Texts, each in quotes.", show_default=False)] = None,
    file: Annotated[Path | None, typer.Option(help="A data file in place of texts.", show_default=False)] = None,
    column: Annotated[str, typer.Option(help="The column of --file that holds the texts.")] = "text",
    out: Annotated[
        Path | None, typer.Option(help="Where to: .npy, or .jsonl with the texts; standard output if not given.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite OUT.")] = False,
) -> None:
    """The embedding of each text, exactly as it stands: a template's fixed words must stand in it, if there are any."""
    if (text is None) == (file is None):
        raise typer.BadParameter("give texts, or --file")
    if out is not None and out.suffix not in VECTOR_SUFFIXES:
        raise typer.BadParameter(f"--out: {out} must end in {' or '.join(VECTOR_SUFFIXES)}")
    from kivnun.assistant import open_headed
    from kivnun.cli.files import require_free, write_named
    from kivnun.cli.output import tell
    from kivnun.runs import find_run

    if out is not None:
        require_free(out, str(file or ""), force=force)
    texts = text if text is not None else _read_texts(file or Path(), column)
    model = open_headed(find_run(run), "embedding")
    for each in texts:
        model.encoder.require_plain(each)
    vectors = model.embed(texts)
    if out is None:
        sys.stdout.write(_to_lines(texts, vectors))
        return
    content = _to_npy(vectors) if out.suffix == ".npy" else _to_lines(texts, vectors)
    write_named(out, content, may_replace=force, hint="name another file, or overwrite it with --force")
    tell(f"wrote {len(texts)} vectors of {vectors.shape[1]} numbers to {out}")


def _read_texts(file: Path, column: str) -> list[str]:
    from kivnun.data.sources import first_problems, read_rows
    from kivnun.errors import UserError

    rows = read_rows(str(file))
    texts = [row.fields.get(column) for row in rows]
    problems = [
        f"{row.where}: {column} is {text!r}"
        for row, text in zip(rows, texts, strict=True)
        if not isinstance(text, str) or not text.strip()
    ]
    if problems:
        raise UserError(
            "data-field",
            f"{len(problems)} of {len(rows)} rows have no text in the column {column!r}",
            details=first_problems(problems),
            hint="name the column with --column",
        )
    return [str(text) for text in texts]


def _to_npy(vectors: "NDArray[np.float32]") -> bytes:
    import io

    import numpy as np

    buffer = io.BytesIO()
    np.save(buffer, vectors, allow_pickle=False)
    return buffer.getvalue()


def _to_lines(texts: list[str], vectors: "NDArray[np.float32]") -> str:
    import json

    pairs = zip(texts, vectors.tolist(), strict=True)
    return "".join(json.dumps({"text": text, "vector": vector}, ensure_ascii=False) + "\n" for text, vector in pairs)
