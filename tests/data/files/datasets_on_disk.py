"""Folders as Hugging Face's `datasets` writes them, without that library."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
from pyarrow import ipc


def write_saved(folder: Path, splits: Mapping[str, Sequence[Mapping[str, object]]]) -> None:
    """A folder like that of `DatasetDict.save_to_disk`."""
    folder.mkdir()
    (folder / "dataset_dict.json").write_text(json.dumps({"splits": list(splits)}), "utf-8")
    for name, rows in splits.items():
        table = pa.Table.from_pylist([dict(row) for row in rows])
        (folder / name).mkdir()
        file = "data-00000-of-00001.arrow"
        with ipc.new_stream(folder / name / file, table.schema) as stream:
            stream.write_table(table)
        (folder / name / "state.json").write_text(json.dumps({"_data_files": [{"filename": file}]}), "utf-8")
        (folder / name / "dataset_info.json").write_text(json.dumps({"features": {}, "splits": {}}), "utf-8")
