"""A file is repaired; what the repair did, wrote and logged is read."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kivnun.data.repair.output import log_path
from kivnun.data.repair.rewrite import Repair, Target
from kivnun.data.repair.source import Source, find_source


@dataclass(frozen=True)
class Mended:
    """What a repair did, wrote and logged."""

    done: Repair
    content: bytes
    log: list[dict[str, object]]

    @property
    def lines(self) -> list[str]:
        return self.content.decode().splitlines()

    @property
    def rows(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.content.splitlines()]


def mend(
    folder: Path, repair: Callable[..., Repair], content: bytes | str, *options: object, name: str = "in.jsonl", **more
) -> Mended:
    path, out = folder / name, folder / f"out-{name}"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    done = repair(source(path), Target(out, force=True), *options, **more)
    log = [json.loads(line) for line in log_path(out).read_bytes().splitlines()]
    return Mended(done, out.read_bytes(), log)


def source(path: Path) -> Source:
    return Source(find_source(str(path), as_text=True))


def jsonl(*rows: object) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
