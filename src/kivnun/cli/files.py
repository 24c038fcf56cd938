"""Files that the user names on the command line: written whole, or refused in one line."""

from pathlib import Path


def write_named(path: Path, content: str | bytes, *, may_replace: bool, hint: str) -> None:
    """Write a file, and the folders above it.

    Args:
        path: The file.
        content: Its content.
        may_replace: Whether a file that exists is overwritten.
        hint: What to do if one exists that must stay.

    Raises:
        UserError: `file-exists` or `file-unwritable`.
    """
    from kivnun.errors import UserError
    from kivnun.runs.atomic import write_atomic

    try:
        if path.is_dir():
            raise UserError("file-unwritable", f"{path} is a folder", hint="name a file, with its ending")
        if path.exists() and not may_replace:
            raise UserError("file-exists", f"{path} exists", hint=hint)
        path.parent.mkdir(parents=True, exist_ok=True)
        # What is named in it need not be UTF-8: names of files are not on every system.
        write_atomic(path, content if isinstance(content, bytes) else content.encode("utf-8", "backslashreplace"))
    except OSError as error:
        is_below_file = isinstance(error, FileExistsError)
        reason = f"{path.parent} is a file" if is_below_file else (error.strerror or str(error)).lower()
        raise UserError(
            "file-unwritable", f"cannot write {path}: {reason}", hint="name a file in a folder that you may write to"
        ) from error


def require_free(out: Path, source: str, *, force: bool) -> None:
    """Refuse, before any work is done, an output that would overwrite something, and make the folders above it.

    Args:
        out: The file that will be written.
        source: What is read.
        force: Whether another file than the source may be overwritten.

    Raises:
        UserError: `file-exists` or `file-unwritable`.
    """
    from kivnun.errors import UserError

    if out.exists() and Path(source).exists() and out.samefile(source):
        raise UserError("file-exists", f"{out} is the file that is read", hint="name another file for the output")
    if out.is_dir():
        raise UserError("file-unwritable", f"{out} is a folder", hint="name a file, with its ending")
    if out.exists() and not force:
        raise UserError("file-exists", f"{out} exists", hint="name another file, or overwrite it with --force")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            "file-unwritable",
            f"cannot write {out}: {(error.strerror or str(error)).lower()}",
            hint="name a file in a folder that you may write to",
        ) from error
