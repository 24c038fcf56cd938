"""A folder's files under another name, without copying them where the disk can link."""

import os
import shutil
from pathlib import Path


def copy_linked(folder: Path, target: Path) -> None:
    """Give a folder's files a second name in a new folder; what cannot be linked is copied.

    Args:
        folder: The folder, whose files nobody writes to any more.
        target: The new folder, which must not exist.
    """
    shutil.copytree(folder, target, copy_function=_link)


def _link(source: str, target: str) -> None:
    try:
        # The hub keeps a model as links into a store: the file itself is linked.
        os.link(Path(source).resolve(), target)
    except OSError:
        shutil.copyfile(source, target)
