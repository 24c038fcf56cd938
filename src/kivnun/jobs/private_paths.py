"""Where a server keeps its things is nobody's business but its own: paths in texts for clients become names.

Whatever was kept under an id is told by it: the file of `DATA_DIR/files/file-abc` is `file-abc`.
"""

import os
import re
import sys
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path, PureWindowsPath

_SIGN = r"[^\s/:'\"`,;)]"
# What only looks like the beginning of a path: 3/4, https://, ./a, #/definitions/a, </think>, [/INST], /v1/files.
_POSIX = re.compile(rf"(?<![\w/.#<\[])~?/(?!/|v1/)(?:{_SIGN}+/+)+({_SIGN}+)")
_WINDOWS = re.compile(r"(?<!\w)[A-Za-z]:[\\/](?:[^\\/:*?\"<>|\n]+[\\/])*[^\s\\/:*?\"<>|',;)]+")


def without_paths(text: str, *folders: Path | str) -> str:
    """A text with every path of this machine by its last part.

    Args:
        text: For a client.
        *folders: Of the server, which are found whatever their names hold; in other paths, a space is the end.
    """
    known = _find_known(tuple(sorted(map(str, folders))))
    text = known.sub(lambda found: Path(found[0].rstrip("/")).name, text)
    text = _POSIX.sub(r"\1", text)
    return _WINDOWS.sub(lambda found: PureWindowsPath(found[0]).name, text)


@lru_cache(maxsize=64)
def _find_known(folders: tuple[str, ...]) -> re.Pattern[str]:
    here = (os.environ.get("HOME", ""), str(Path.cwd()), sys.prefix)
    roots = sorted(_whole_ones((*folders, *here)), key=len, reverse=True)
    return re.compile(rf"(?<![\w/.])(?:{'|'.join(map(re.escape, roots))})(?!{_SIGN})(?:/+{_SIGN}+)*/?")


def _whole_ones(folders: Iterable[str]) -> set[str]:
    """Those that can be told from other words, as they are named and as they really are."""
    paths = [Path(folder) for folder in folders]
    both = {str(each) for path in paths if path.is_absolute() for each in (path, path.resolve())}
    return {folder for folder in both if folder != "/"}
