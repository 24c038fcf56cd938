"""A process of its own that works on an index: `store_process.py SPEC FOLDER ingest|write ...`."""

import sys
from pathlib import Path

from store_samples import entry, round_entry

from kivnun.retrieval.store import Store
from kivnun.retrieval.stores import open_store

NUM_DOCUMENTS = 24
BATCH = 6


def _ingest(store: Store) -> None:
    """Replace all documents round after round until somebody ends us; every batch that is kept is said."""
    round_number = 0
    while True:
        for first in range(0, NUM_DOCUMENTS, BATCH):
            store.replace_documents([round_entry(number, round_number) for number in range(first, first + BATCH)])
            print(first, round_number, flush=True)  # noqa: T201
        round_number += 1


def _write(store: Store, names: list[str], text: str) -> None:
    """Store one document after the other, once told to begin."""
    print("ready", flush=True)  # noqa: T201
    sys.stdin.readline()
    for name in names:
        store.replace_documents([entry(name, [f"{text} {name}", text])])
    print("done", flush=True)  # noqa: T201


def _main(spec: str, folder: str, task: str, *words: str) -> None:
    store = open_store(spec, Path(folder), create=True)
    if task == "ingest":
        _ingest(store)
    else:
        _write(store, words[1].split(","), words[0])
    store.close()


if __name__ == "__main__":
    _main(*sys.argv[1:])
