"""A run as an Azure Machine Learning job: its specification, environment and code, written out before anything is sent.

The files follow the command job schema of Azure's command line, version 2
(https://azuremlschemas.azureedge.net/latest/commandJob.schema.json), so that `az ml job create` takes them too.
"""

import shlex
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from io import StringIO
from pathlib import Path

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from kivnun.errors import UserError
from kivnun.recipe.dump import dump_recipe, dump_value
from kivnun.recipe.load import LoadedRecipe
from kivnun.recipe.rules import list_files
from kivnun.recipe.schema import Recipe
from kivnun.recipe.where import AzureMlSection

SCHEMA = "https://azuremlschemas.azureedge.net/latest/commandJob.schema.json"
DEFAULT_IMAGE = "mcr.microsoft.com/azureml/openmpi4.1.0-ubuntu22.04"
JOB_NAME, CONDA_NAME, CODE_NAME = "job.yml", "conda.yaml", "code"
RECIPE_NAME = "recipe.yaml"
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class AzureJob:
    """A job that is written out.

    Attributes:
        folder: Holds job.yml, conda.yaml and code/.
        specification: What job.yml says.
        sent: Local files that go with the code, by their size in bytes.
    """

    folder: Path
    specification: Mapping[str, object]
    sent: Mapping[str, int]


def write_job(loaded: LoadedRecipe, folder: Path) -> AzureJob:
    """Write what the job of a recipe is made of.

    Args:
        loaded: A recipe with `where: {kind: azureml, ...}`.
        folder: Appears when all of it is written; an earlier one is replaced.

    Raises:
        UserError: `azure-invalid` for inputs that the recipe does not name, or an environment without Kivnun;
            `file-exists` where the folder holds something else.
    """
    where = _where(loaded)
    if folder.exists() and not (folder / JOB_NAME).is_file():
        raise UserError("file-exists", f"{folder} exists and is no job", hint="name another folder with --run-dir")
    inputs = _Inputs(loaded, where)
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    code = partial / CODE_NAME
    code.mkdir(parents=True)
    command = f"kivnun run {RECIPE_NAME} --run-dir ${{{{outputs.run}}}}{inputs.overrides()}"
    inputs.copy_files(code)
    recipe = inputs.local_recipe()
    (code / RECIPE_NAME).write_text(dump_recipe(recipe, with_defaults=False), "utf-8")
    (partial / CONDA_NAME).write_text(_conda(where, loaded), "utf-8")
    described: dict[str, object] = {
        "$schema": SCHEMA,
        "type": "command",
        "display_name": recipe.name or loaded.path.stem,
        "experiment_name": "kivnun",
        "code": CODE_NAME,
        "command": command,
        "compute": f"azureml:{where.compute}",
        "environment": {"image": where.image or DEFAULT_IMAGE, "conda_file": CONDA_NAME},
        "resources": {"instance_count": where.instance_count},
        "distribution": _distribution(where),
        "inputs": inputs.remote(),
        "outputs": {"run": {"type": "uri_folder", "mode": "rw_mount"}},
    }
    specification = {key: value for key, value in described.items() if value != {}}
    (partial / JOB_NAME).write_text(_yaml(specification), "utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
    sent = {
        path.relative_to(folder).as_posix(): path.stat().st_size for path in sorted((folder / CODE_NAME).rglob("*"))
    }
    return AzureJob(folder, specification, {name: size for name, size in sent.items() if (folder / name).is_file()})


def _distribution(where: AzureMlSection) -> dict[str, object]:
    """What makes several machines one run: Azure then sets the variables that torchrun would."""
    return {"type": "pytorch", "process_count_per_instance": 1} if where.instance_count > 1 else {}


def _where(loaded: LoadedRecipe) -> AzureMlSection:
    where = loaded.recipe.where
    if where is None:
        raise ValueError("the recipe has no `where` section")
    return where


class _Inputs:
    """What the recipe reads: from the workspace, from the code folder, or from a hub."""

    def __init__(self, loaded: LoadedRecipe, where: AzureMlSection) -> None:
        self._loaded, self._where = loaded, where
        self._names = {path: f"input_{number}" for number, path in enumerate(where.inputs)}
        unknown = [path for path in where.inputs if path not in set(self._all_paths())]
        if unknown:
            raise UserError(
                "azure-invalid",
                f"where.inputs: {unknown[0]} is named nowhere else in the recipe",
                hint=f"name one of {', '.join(self._all_paths())}, as data or as base_model",
            )

    def remote(self) -> dict[str, object]:
        """The job's inputs, each with its place in the workspace."""
        data = {path for _, paths in self._data() for path in paths}
        return {
            name: {"type": "uri_file" if path in data else "uri_folder", "path": self._where.inputs[path]}
            for path, name in self._names.items()
        }

    def overrides(self) -> str:
        """The `--set` words that put the inputs' places on the machine into the recipe."""
        words = [(field, self._placed(value)) for field, value in self._fields() if self._is_remote(value)]
        return "".join(f" --set {shlex.quote(f'{field}={dump_value(value)}')}" for field, value in words)

    def local_recipe(self) -> Recipe:
        """The recipe as it goes along: it names the copies of local files, and runs where it is sent."""
        placed = {field: self._placed(value) for field, value in self._fields() if not self._is_remote(value)}
        recipe = self._loaded.recipe
        splits = {split: placed[f"data.{split}"] for split in SPLITS if f"data.{split}" in placed}
        data = recipe.data.model_copy(update=splits)
        return recipe.model_copy(
            update={"where": None, "data": data, "base_model": placed.get("base_model", recipe.base_model)}
        )

    def copy_files(self, code: Path) -> None:
        """Take the local files along; a name that is neither here nor an input is one of a hub."""
        for path, copied in self._local():
            target = code / copied
            target.parent.mkdir(parents=True, exist_ok=True)
            found = self._loaded.locate(path)
            if found.is_dir():
                shutil.copytree(found, target)
            else:
                shutil.copyfile(found, target)

    def _is_remote(self, value: object) -> bool:
        paths = (value,) if isinstance(value, str) else list_files(value)  # type: ignore[arg-type]
        return any(path in self._names for path in paths)

    def _placed(self, value: object) -> object:
        if isinstance(value, str):
            return self._place(value)
        if isinstance(value, dict):
            return {key: self._place(path) for key, path in value.items()}
        return tuple(self._place(path) for path in value) if isinstance(value, tuple) else value

    def _place(self, path: str) -> str:
        if path in self._names:
            return f"${{{{inputs.{self._names[path]}}}}}"
        return dict(self._local()).get(path, path)

    def _local(self) -> list[tuple[str, str]]:
        paths = [path for path in self._all_paths() if path not in self._names and self._loaded.locate(path).exists()]
        # Two files of one name, from two folders, must not become one.
        return [(path, f"inputs/{number}-{Path(path).name}") for number, path in enumerate(paths)]

    def _fields(self) -> Iterator[tuple[str, object]]:
        for split in SPLITS:
            value = getattr(self._loaded.recipe.data, split)
            if value is not None:
                yield f"data.{split}", value
        if isinstance(self._loaded.recipe.base_model, str):
            yield "base_model", self._loaded.recipe.base_model

    def _data(self) -> Iterator[tuple[str, tuple[str, ...]]]:
        return ((field, list_files(value)) for field, value in self._fields() if field != "base_model")  # type: ignore[arg-type]

    def _all_paths(self) -> tuple[str, ...]:
        model = self._loaded.recipe.base_model
        paths = [path for _, listed in self._data() for path in listed]
        return tuple(dict.fromkeys([*paths, *([model] if isinstance(model, str) else [])]))


def _conda(where: AzureMlSection, loaded: LoadedRecipe) -> str:
    """The environment's conda file: the user's own, which must install Kivnun, or one that installs this version."""
    installed = f"kivnun=={version('kivnun')}"
    if where.conda_file is None:
        return _yaml(
            {
                "name": "kivnun",
                "channels": ["conda-forge"],
                "dependencies": ["python=3.11", "pip", {"pip": [installed]}],
            }
        )
    path = loaded.locate(where.conda_file)
    try:
        text = path.read_text("utf-8")
        content = YAML(typ="safe", pure=True).load(text)
    except (OSError, UnicodeDecodeError, YAMLError) as error:
        hint = "name a conda file that can be read, or leave where.conda_file out"
        raise UserError("azure-invalid", f"where.conda_file: {path}: {error}", hint=hint) from error
    groups = (content.get("dependencies") or []) if isinstance(content, dict) else []
    pip = [line for group in groups if isinstance(group, dict) for line in group.get("pip") or []]
    if not any(str(line).startswith("kivnun") for line in pip):
        raise UserError(
            "azure-invalid",
            f"where.conda_file: {path} does not install Kivnun, so that the job could not run",
            hint=f"add `- {installed}` to its pip packages, in place of olive-ai if that stands there",
        )
    return text


def _yaml(value: object) -> str:
    stream = StringIO()
    yaml = YAML(typ="rt", pure=True)
    yaml.width = 10**9
    yaml.dump(value, stream)  # pyright: ignore[reportUnknownMemberType]
    return stream.getvalue()
