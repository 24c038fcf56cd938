"""The names that clients call models by, and where those models lie."""

import re
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path

from sqlalchemy import ColumnElement, exists, or_, select
from sqlalchemy.orm import Session

from kivnun.database.tables import CheckpointPermission, TunedModel
from kivnun.jobs.tuned_base import serving_base
from kivnun.models.resolve import READER
from kivnun.server.callers import Caller
from kivnun.server.errors import ApiError
from kivnun.server.service import ServeSettings, Service
from kivnun.serving.answers import EngineName, ModelAddress
from kivnun.serving.exported import engine_of

OWNER = "kivnun"
MAX_HOSTED = 64
BUNDLED = "bundled"
LIST_MODELS = "GET /v1/models lists those that you may use."
MAX_NEAR = 1000
MAX_NAME = 256
# Models of the hosted services that people fine-tune; none of them is on any machine but theirs. A family is followed
# by words of its kinds and by versions and by nothing else: whoever asks for `gpt-35-turbo-ft` means a model that was
# tuned, and must not be answered by the base model.
_KIND = (
    r"turbo|mini|nano|pro|flash|lite|ultra|instruct|chat|codex|max|preview|latest|exp|experimental|audio|realtime"
    r"|search|vision|thinking|deep-research|image|unicorn"
)
_VERSION = r"\d{3,4}|(\d{4}-)?\d\d-\d\d|\d\d-\d{4}|\d{1,3}[kb]"
_HOSTED = re.compile(
    r"(gpt-[3-9](\.\d)?o?|gpt-35|gpt-oss|chatgpt-\do|o\d|gemini(-\d(\.\d)?)?|(text|chat|code|codechat)-bison)"
    rf"(-({_KIND}|{_VERSION}))*(@(\d{{3}}|latest|default))?|davinci-002|babbage-002",
    re.ASCII,
)
TUNED_PREFIX = "ft:"
HOW_TO_ASK_A_TUNED_MODEL = (
    "A tuned model is asked for by the name that its job gives, `job.fine_tuned_model` (ft:...), or by a NAME that "
    "`kivnun serve --model NAME=ft:...` gives to it; a base model of your own by `kivnun serve --model NAME=FOLDER`."
)
STAND_IN_HEADER = "x-kivnun-model"


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
    own = {name: source for name, source in settings.models.items() if not source.startswith(TUNED_PREFIX)}
    return {BUNDLED: BUNDLED, READER: READER, stand_in(settings): source, **own}


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
    is_own = name in base_models(settings) or name in settings.models
    return not is_own and len(name) <= MAX_HOSTED and _HOSTED.fullmatch(name) is not None


def tell_stand_in(settings: ServeSettings, name: str) -> dict[str, str]:
    """The header that tells who answers for a hosted name; none for a model's own name.

    Args:
        settings: Of the server.
        name: As a client calls it.
    """
    return {STAND_IN_HEADER: say_header(stand_in(settings))} if is_hosted(settings, name) else {}


def say_header(name: str) -> str:
    """A name as a header may hold it: ASCII, while the name of a folder may hold anything.

    Args:
        name: Of a model.
    """
    return name.encode("unicode_escape").decode("ascii")


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
    # Whoever runs the server may have given it a name of its own, as Azure's deployments have.
    given = service.settings.models.get(name, name)
    if given.startswith(TUNED_PREFIX):
        row = session.scalar(select(TunedModel).where(TunedModel.name == given, may_use(caller)))
        if row is not None:
            return tuned_model(service, row)
    source = find_base(service.settings, name)
    if source is None:
        raise model_not_found(name, guess_model(session, service, caller, name))
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


def guess_model(session: Session, service: Service, caller: Caller, name: str) -> str:
    """What a client may have meant by a name that is none: a sentence behind a space, or nothing.

    Args:
        session: Open for reading.
        service: Of the server.
        caller: Who asks; nothing is told of models that it may not use.
        name: As the client called it.
    """
    newest = select(TunedModel.name).where(may_use(caller)).order_by(TunedModel.number.desc()).limit(MAX_NEAR)
    tuned = list(session.scalars(newest))
    given = [own for own, source in service.settings.models.items() if source in tuned]
    known = [*base_models(service.settings), *given, *tuned]
    close = get_close_matches(name, known, n=1) if len(name) <= MAX_NAME else []
    return f" Did you mean `{close[0]}`?" if close else ""


def model_not_found(name: str, guess: str = "") -> ApiError:
    """What is answered for a model that is not there, or belongs to others.

    Args:
        name: As the client called it.
        guess: What it may have meant, of `guess_model`.
    """
    message = f"The model `{name}` does not exist or you do not have access to it.{guess} {LIST_MODELS}"
    if not name.startswith(TUNED_PREFIX):
        message += f" {HOW_TO_ASK_A_TUNED_MODEL}"
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
