"""What a run is made from: its recipe, the data files that this names, and their hashes, kept in the run's lock."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kivnun.data.files.find import DataFile
from kivnun.data.reading import find_files
from kivnun.errors import UserError
from kivnun.methods.virtual_tokens import require_room
from kivnun.models.context import folder_context
from kivnun.models.resolve import ResolvedModel
from kivnun.recipe.dump import dump_recipe
from kivnun.recipe.load import DATA_FILES, LoadedRecipe, located_recipe
from kivnun.recipe.methods import Method, PrefixMethod, PromptMethod
from kivnun.recipe.schema import DataSection, Recipe
from kivnun.runs import ModelLock, Run, RunLock, hash_file, write_atomic, write_lock


@dataclass(frozen=True)
class RunInputs:
    """A recipe and the files that it names.

    Attributes:
        loaded: The recipe as it was loaded.
        recipe: The recipe with the paths of its data files as they are found from here.
        files: The data files by split.
        hashes: Content hash of every data file.
    """

    loaded: LoadedRecipe
    recipe: Recipe
    files: Mapping[str, Sequence[DataFile]]
    hashes: Mapping[str, str]

    def describe_data(self) -> dict[str, object]:
        """What the rows depend on: the section, and each file's part in it, name and content."""
        return {
            "data": self.recipe.data.model_dump(mode="json", exclude=DATA_FILES),
            "files": {split: [self._describe(file) for file in files] for split, files in sorted(self.files.items())},
            "objective": self.recipe.training.objective.model_dump(mode="json"),
        }

    def _describe(self, file: DataFile) -> object:
        if file.columns:
            return {column: [path.name, self.hashes[str(path)]] for column, path in file.columns.items()}
        names = {"values": file.value_names, "renames": file.renames, "tags": file.tags}
        return [file.path.name, self.hashes[str(file.path)], {name: value for name, value in names.items() if value}]


def find_inputs(loaded: LoadedRecipe) -> RunInputs:
    """Find and hash the files of a recipe.

    Raises:
        UserError: `data-missing` or `data-format`; `data-encoding` for a name that is not UTF-8.
    """
    recipe = located_recipe(loaded)
    files = find_files(recipe.data).files
    paths = [path for part in files.values() for file in part for path in (file.columns.values() or (file.path,))]
    _require_names(paths)
    return RunInputs(loaded, recipe, files, {str(path): hash_file(path) for path in paths})


def _require_names(paths: Sequence[Path]) -> None:
    """Refuse files that the run folder could not name: what is written there is UTF-8."""
    for path in paths:
        # Bytes that are not UTF-8 are halves of surrogate pairs in Python's names.
        if any("\ud800" <= character <= "\udfff" for character in str(path)):
            shown = os.fsencode(path).decode("utf-8", "backslashreplace")
            raise UserError("data-encoding", f"{shown}: the name of this file is not UTF-8", hint="rename it")


def fit_context(data: DataSection, base: ResolvedModel, method: Method) -> tuple[DataSection, int | None]:
    """The data section with rows no longer than the model can read, and that limit where it is the tighter one.

    Raises:
        UserError: `recipe-invalid` where the method's virtual tokens fill the model's context.
    """
    limit = folder_context(base.folder)
    if not isinstance(limit, int):
        return data, None
    if isinstance(method, PrefixMethod | PromptMethod):
        require_room(limit, method.num_virtual_tokens)
        limit -= method.num_virtual_tokens
    if limit >= data.max_seq_len:
        return data, None
    return data.model_copy(update={"max_seq_len": limit}), limit


def write_run_lock(run: Run, inputs: RunInputs, base: ResolvedModel, *, device: str) -> None:
    """Keep what the recipe resolved to, and the recipe itself, in the run folder."""
    # A folder by its whole path: the run is used later, and from elsewhere.
    name = str(base.folder.resolve()) if base.folder == Path(base.name) else base.name
    lock = RunLock(
        recipe=inputs.recipe.model_dump(mode="json"),
        base_model=ModelLock(name, base.revision, base.content_hash),
        data=inputs.hashes,
        seed=inputs.recipe.training.seed,
        device=device,
    )
    write_lock(run.folder, lock)
    # The file as the user wrote it, comments and all, unless --set changed what it says.
    loaded = inputs.loaded
    is_changed = "--set" in loaded.provenance.values()
    text = dump_recipe(loaded.recipe, with_defaults=False) if is_changed else loaded.text
    write_atomic(run.folder / "recipe.yaml", text)
