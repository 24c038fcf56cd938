"""The names that clients call models by, and where those models lie."""

import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from sqlalchemy import ColumnElement, exists, or_, select
from sqlalchemy.orm import Session

from kivnun.database.tables import CheckpointPermission, TunedModel
from kivnun.jobs.tuned_base import serving_base
from kivnun.server.callers import Caller
from kivnun.server.errors import ApiError
from kivnun.server.service import ServeSettings, Service
from kivnun.serving.answers import EngineName, ModelAddress
from kivnun.serving.exported import engine_of

OWNER = "kivnun"
BUNDLED = "bundled"
# Models of the hosted service that people fine-tune; none of them is on any machine but theirs.
_HOSTED = re.compile(
    r"gpt-[\w.\-]{1,64}|chatgpt-[\w.\-]{1,64}|o\d(-mini|-pro)?(-[\d\-]{1,16})?|davinci-002|babbage-002"
    r"|gemini-[\w.\-]{1,64}|text-bison[\w.@\-]{0,64}|chat-bison[\w.@\-]{0,64}"
)


@dataclass(frozen=True)
class NamedModel:
    """A model as a client asks for it.

    Attributes:
        name: As it was asked for.
        address: Where it lies.
        base_name: The base model as a recipe names it: `bundled`, a folder or a Hugging Face id.
        owner: Who has it.
        created: When it was made, in seconds since 1970.
        is_tuned: Whether a job of this server made it.
    """

    name: str
    address: ModelAddress
    base_name: str
    owner: str
    created: int
    is_tuned: bool


def base_models(settings: ServeSettings) -> dict[str, str]:
    """The base models by the names that clients see, with what a recipe calls them: no name tells a path.

    Args:
        settings: Of the server.
    """
    source = settings.models.get(settings.base_model, settings.base_model)
    return {BUNDLED: BUNDLED, stand_in(settings): source, **settings.models}


def stand_in(settings: ServeSettings) -> str:
    """What clients call the base model that stands in for hosted names.

    Args:
        settings: Of the server.
    """
    base = settings.base_model
    return base if base in settings.models or not Path(base).is_dir() else Path(base).resolve().name


def is_hosted(settings: ServeSettings, name: str) -> bool:
    """Whether a name is one of the hosted service's, which `stand_in` answers for.

    Args:
        settings: Of the server.
        name: As a client calls it.
    """
    return name not in base_models(settings) and _HOSTED.fullmatch(name) is not None


def find_model(session: Session, service: Service, caller: Caller, name: str) -> NamedModel:
    """The model of a name: a tuned one, a checkpoint, a base model, or a hosted name that a base model stands in for.

    Args:
        session: Open for reading.
        service: Of the server.
        caller: Who asks; the tuned models of others are not there for them.
        name: As the client calls it.

    Raises:
        ApiError: 404, `model_not_found`.
    """
    if name.startswith("ft:"):
        row = session.scalar(select(TunedModel).where(TunedModel.name == name, may_use(caller)))
        if row is not None:
            return tuned_model(service, row)
    source = find_base(service.settings, name)
    if source is None:
        raise model_not_found(name)
    return base_model(service.settings, name, source)


def find_base(settings: ServeSettings, name: str) -> str | None:
    """What a recipe calls the base model of a name; None where there is none.

    Args:
        settings: Of the server.
        name: As a client calls it.
    """
    return base_models(settings).get(stand_in(settings) if is_hosted(settings, name) else name)


def may_use(caller: Caller) -> ColumnElement[bool]:
    """Which tuned models someone may use: those of the project, and checkpoints that it was permitted.

    Args:
        caller: Who asks.
    """
    permitted = exists().where(
        CheckpointPermission.model_name == TunedModel.name, CheckpointPermission.project_id == caller.project_id
    )
    return or_(TunedModel.project_id == caller.project_id, permitted)


def tuned_model(service: Service, row: TunedModel) -> NamedModel:
    """A tuned model from its row.

    Args:
        service: Of the server.
        row: Of a model that the caller may use.
    """
    settings = service.settings
    merged = serving_base(row.base_model, row.job_id, settings.data_dir)
    base = merged or base_models(settings).get(row.base_model, row.base_model)
    tuned = settings.data_dir / row.folder
    address = ModelAddress(base, tuned, _engine(settings, base))
    return NamedModel(row.name, address, base, row.organization_name, row.created_at, is_tuned=True)


def base_model(settings: ServeSettings, name: str, source: str) -> NamedModel:
    """A base model under one of its names.

    Args:
        settings: Of the server.
        name: As the client calls it.
        source: What a recipe calls it.
    """
    address = ModelAddress(source, None, _engine(settings, source))
    return NamedModel(name, address, source, OWNER, _made_at(source), is_tuned=False)


def model_not_found(name: str) -> ApiError:
    """What is answered for a model that is not there, or belongs to others.

    Args:
        name: As the client called it.
    """
    message = f"The model `{name}` does not exist or you do not have access to it."
    return ApiError(404, message, param="model", code="model_not_found")


def _engine(settings: ServeSettings, source: str) -> EngineName:
    """Always one where the server was told so; else by what lies in the folder. vLLM reads what torch does."""
    if settings.engine == "auto":
        return engine_of(source)
    return "onnx" if settings.engine == "onnx" else "torch"


@lru_cache(maxsize=256)
def _made_at(source: str) -> int:
    config = Path(source) / "config.json"
    return int(config.stat().st_mtime) if config.is_file() else 0
