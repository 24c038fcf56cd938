"""Send one folder of a run, with its card, to the Hugging Face hub: whole, in one commit, or not at all.

This is the one thing here that goes out, and only when asked. Test prompts and what names files of this machine stay
at home; weights that are not safetensors, ONNX or GGUF are refused, since loading a pickle runs what is in it.
"""

import os
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from huggingface_hub import CommitOperationAdd, HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled
from huggingface_hub.utils import validate_repo_id

from kivnun.errors import UserError
from kivnun.runs import hash_file, read_lock, read_manifest
from kivnun.runs.lock import LOCK_NAME
from kivnun.runs.manifest import CARD_NAME, MANIFEST_NAME

MODEL, OPTIMIZED, MERGED = "model", "optimized", "merged"
MODEL_FORMS = ("adapter", "model")
PROMPT_FILES = ("golden.json", "reference.json")
_PICKLE_SUFFIXES = {".bin", ".ckpt", ".joblib", ".npy", ".npz", ".pickle", ".pkl", ".pt", ".pth"}
# Formats whose first bytes may be anything.
_SAFE_SUFFIXES = {".data", ".gguf", ".jinja", ".json", ".md", ".onnx", ".onnx_adapter", ".safetensors", ".txt"}
_PICKLE_START = re.compile(rb"\x80[\x02-\x05]")
# The errors of the connection: of httpx in the hub's client 1, of httpx2 in 2.
_CONNECTION_ERROR = cast("type[Exception]", HfHubHTTPError.__mro__[1])
_GOES_ON = "nothing was published; give the same command again{}"


@dataclass(frozen=True)
class PushPlan:
    """What would be sent.

    Attributes:
        form: The form's name.
        folder: Its folder.
        files: Size of every file that is sent, by its path in the folder.
        left_out: Why a file stays at home, by its path.
        notes: What the sender must know.
    """

    form: str
    folder: Path
    files: Mapping[str, int]
    left_out: Mapping[str, str]
    notes: Sequence[str] = ()

    @property
    def size_bytes(self) -> int:
        """Of all files that are sent."""
        return sum(self.files.values())


@dataclass(frozen=True)
class Pushed:
    """What was sent.

    Attributes:
        url: Where it is.
        commit: The commit that holds it.
    """

    url: str
    commit: str


def list_forms(run_dir: Path) -> list[str]:
    """The forms of a run that can be sent, the likeliest one first."""
    optimized = run_dir / OPTIMIZED
    folders = sorted(path.name for path in optimized.glob("*") if path.is_dir()) if optimized.is_dir() else []
    found = sorted(folders, key=lambda name: name != MERGED)
    if (run_dir / MODEL).is_dir():
        found.append("adapter" if (run_dir / MODEL / "adapter_config.json").is_file() else "model")
    return found


def find_form(run_dir: Path, form: str | None) -> tuple[str, Path]:
    """A form's name and folder; the merged model, or what was trained, where none is named.

    Args:
        run_dir: The run folder.
        form: Such as `merged`, `onnx-int4`, `gguf` or `adapter`.

    Raises:
        UserError: `run-missing`.
    """
    forms = list_forms(run_dir)
    if not forms or (form is not None and form not in forms):
        problem = f"{run_dir} has no form `{form}`" if form else f"{run_dir} has nothing to send yet"
        hint = f"it has {', '.join(forms)}" if forms else "run its recipe to the end first"
        raise UserError("run-missing", problem, hint=hint)
    name = form or (forms[0] if forms[0] == MERGED else forms[-1])
    return name, run_dir / MODEL if name in MODEL_FORMS else run_dir / OPTIMIZED / name


def plan_push(run_dir: Path, form: str | None, *, with_golden: bool) -> PushPlan:
    """Choose and check the files of a form.

    Args:
        run_dir: The run folder.
        form: As for `find_form`.
        with_golden: Whether the test prompts and the model's answers to them are sent too.

    Raises:
        UserError: `run-missing`; `artifact-damaged` where a file is not what its stage wrote; `push-failed` for
            pickles.
    """
    name, folder = find_form(run_dir, form)
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    reasons = {path.relative_to(folder).as_posix(): _why_left_out(path, with_golden=with_golden) for path in paths}
    sent = [path for path in paths if reasons[path.relative_to(folder).as_posix()] is None]
    _require_no_pickles(sent)
    _require_as_written(run_dir / folder.relative_to(run_dir).parts[0], sent)
    files = {path.relative_to(folder).as_posix(): path.stat().st_size for path in sent}
    left_out = {path: why for path, why in reasons.items() if why is not None}
    return PushPlan(name, folder, files, left_out, _find_paths(run_dir, sent))


def require_repo_id(repo_id: str) -> None:
    """Refuse a name that the hub would not take, before anything is looked at.

    Raises:
        UserError: `push-failed`.
    """
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise _failed(
            f"`{repo_id}` is no name of a repository: {_first_line(error)}", "write --to owner/name"
        ) from error
    if repo_id.count("/") != 1:
        raise _failed(f"`{repo_id}` does not say whose the repository is", "write --to owner/name")


def push(plan: PushPlan, repo_id: str, *, private: bool, update: bool) -> Pushed:
    """Send the files in one commit, and look afterwards whether all of them are there.

    Args:
        plan: What to send.
        repo_id: `owner/name`.
        private: Whether a new repository is hidden from others.
        update: Whether a repository that exists gets a new commit; its other files stay.

    Raises:
        UserError: `push-failed`; what the repository held before is what it holds then.
    """
    require_repo_id(repo_id)
    token = get_token()
    if token is None:
        raise _failed("there is no token for the hub", "set HF_TOKEN, or log in once with `hf auth login`")
    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"), token=token)
    is_made = False
    try:
        if update:
            api.repo_info(repo_id)
        else:
            api.create_repo(repo_id, private=private)
            is_made = True
        commit = api.create_commit(
            repo_id,
            [CommitOperationAdd(path, str(plan.folder / path)) for path in plan.files],
            commit_message=f"{plan.form}, made with Kivnun",
        )
        there = set(api.list_repo_files(repo_id, revision=commit.oid))
    except HfHubHTTPError as error:
        raise _explain(error, repo_id, token, is_made=is_made) from None
    except (OfflineModeIsEnabled, _CONNECTION_ERROR, OSError, RuntimeError, ValueError) as error:
        # The chain of causes may hold the request with its headers.
        problem = _first_line(error).replace(token, "***")
        raise _failed(f"the hub could not be reached: {problem}", _say_again(is_made=is_made)) from None
    lacking = sorted(set(plan.files) - there)
    if lacking:
        raise _failed(
            f"the hub's commit {commit.oid} lacks {len(lacking)} of {len(plan.files)} files",
            "look at the repository on the hub, and send again with --update",
            lacking[:5],
        )
    return Pushed(f"{api.endpoint}/{repo_id}", commit.oid)


def _find_paths(run_dir: Path, sent: Sequence[Path]) -> list[str]:
    """Files that name a base model by its folder on this machine, which others do not have and may learn from."""
    if not (run_dir / LOCK_NAME).is_file():
        return []
    base = read_lock(run_dir).base_model.name
    if not Path(base).is_absolute():
        return []
    naming = [path for path in sent if path.suffix == ".json" and base in path.read_text("utf-8", errors="replace")]
    return [f"{path.name} names the base model by its folder here, {base}: others must give theirs" for path in naming]


def _why_left_out(path: Path, *, with_golden: bool) -> str | None:
    if path.name in PROMPT_FILES and not with_golden:
        return "it holds test prompts; --with-golden sends it"
    if path.name == MANIFEST_NAME:
        return "it names files of this machine"
    if path.name.startswith("."):
        return "it is hidden"
    return None


def _require_no_pickles(paths: Sequence[Path]) -> None:
    pickles = [str(path) for path in paths if _is_pickle(path)]
    if pickles:
        raise _failed(
            f"{len(pickles)} file(s) are pickles, and loading one runs whatever code is in it",
            "remove them, or save their weights as safetensors",
            pickles,
        )


def _is_pickle(path: Path) -> bool:
    """By its ending, or by what it begins with; torch packs its pickles into archives."""
    if path.suffix in _PICKLE_SUFFIXES:
        return True
    if path.suffix in _SAFE_SUFFIXES:
        return False
    with path.open("rb") as file:
        if _PICKLE_START.match(file.read(2)):
            return True
    return zipfile.is_zipfile(path)


def _require_as_written(stage: Path, paths: Sequence[Path]) -> None:
    """Refuse files that changed since their stage was finished; cards may be edited by hand."""
    records = read_manifest(stage).files
    details: list[str] = []
    for path in paths:
        record = records.get(path.relative_to(stage).as_posix())
        if path.name == CARD_NAME:
            continue
        if record is None:
            details.append(f"{path}: does not belong")
        elif path.stat().st_size != record.size_bytes or hash_file(path) != record.sha256:
            details.append(f"{path}: differs from what was written")
    if details:
        raise UserError(
            "artifact-damaged",
            f"{len(details)} file(s) of {stage} cannot be trusted",
            hint=f"remove {stage} and run the recipe again to make it anew",
            details=details,
        )


def _explain(error: HfHubHTTPError, repo_id: str, token: str, *, is_made: bool) -> UserError:
    status = error.response.status_code
    if status in (401, 403):
        hint = f"use a token that may write to {repo_id}" + (", then send again with --update" if is_made else "")
        return _failed(f"the hub refused the token (status {status})", hint)
    if status == 409 and not is_made:
        return _failed(f"{repo_id} exists", "name another one, or put a new commit on it with --update")
    if status == 404 and not is_made:
        return _failed(f"there is no repository {repo_id}", "leave --update out to make it")
    problem = _first_line(error).replace(token, "***")
    return _failed(f"the hub answered with status {status}: {problem}", _say_again(is_made=is_made))


def _say_again(*, is_made: bool) -> str:
    return _GOES_ON.format(" with --update: the new repository is there, and empty" if is_made else "")


def _failed(problem: str, hint: str, details: Sequence[str] = ()) -> UserError:
    return UserError("push-failed", problem, hint=hint, details=details)


def _first_line(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
