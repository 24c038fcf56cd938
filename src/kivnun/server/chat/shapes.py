"""The request of POST /chat/completions: every field of the API, with its meaning or with the reason why it has none.

Fields without effect here are taken where leaving their effect out changes no answer: who the user is, hints for
caches, a tier of service. Those that would change the answer, or keep it, are refused by name.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from kivnun.server.bodies import RequestBody
from kivnun.server.chat.messages import ChatMessage
from kivnun.server.chat.sampling_fields import SamplingFields, require_stream
from kivnun.server.errors import ApiError, invalid

UNSUPPORTED: Mapping[str, str] = {
    "audio": "models here write text alone",
    "prediction": "no output can be predicted for a model here",
    "web_search_options": "no model here searches the web",
    "moderation": "no answer is moderated here",
    "functions": "send `tools` instead, as [{'type': 'function', 'function': ...}]",
    "function_call": "send `tool_choice` instead",
}
MAX_METADATA, MAX_KEY, MAX_VALUE = 16, 64, 512


class FunctionObject(RequestBody):
    """A function that the model may call."""

    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class FunctionTool(RequestBody):
    """A tool; functions are the only kind that models here can call."""

    type: Literal["function"]
    function: FunctionObject


class FunctionName(RequestBody):
    """A function by its name."""

    name: str


class NamedTool(RequestBody):
    """The one function that must be called, or one of those that may be."""

    type: Literal["function"]
    function: FunctionName


class AllowedTools(RequestBody):
    """Those of the tools that may be called now."""

    mode: Literal["auto", "required"]
    tools: Annotated[list[NamedTool], Field(min_length=1)]


class AllowedToolsChoice(RequestBody):
    """A choice among some of the tools."""

    type: Literal["allowed_tools"]
    allowed_tools: AllowedTools


class NamedSchema(RequestBody):
    """A JSON schema that the answer must follow; it is kept to whether `strict` is set or not."""

    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
    description: str | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    strict: bool | None = None


class TextFormat(RequestBody):
    """An answer of any form."""

    type: Literal["text"]


class JsonFormat(RequestBody):
    """An answer that is some JSON object."""

    type: Literal["json_object"]


class SchemaFormat(RequestBody):
    """An answer that follows a JSON schema."""

    type: Literal["json_schema"]
    json_schema: NamedSchema


class CacheOptions(RequestBody):
    """Hints for a cache of prompts; without effect, for prefixes are kept by themselves."""

    ttl: str | None = None
    mode: str | None = None


class ChatRequest(SamplingFields):
    """The body of POST /chat/completions."""

    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    response_format: Annotated[TextFormat | JsonFormat | SchemaFormat, Field(discriminator="type")] | None = None
    tools: Annotated[list[FunctionTool], Field(max_length=128)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | AllowedToolsChoice | None = None
    parallel_tool_calls: bool | None = None
    metadata: dict[str, str] | None = Field(None, description="Sent back with the answer, and kept nowhere.")
    modalities: list[Literal["text"]] | None = None
    store: Literal[False] | None = Field(None, description="Answers are kept nowhere.")
    service_tier: Literal["auto", "default"] | None = Field(None, description="There is one.")
    verbosity: Literal["medium"] | None = Field(None, description="Models here are as wordy as they are.")
    reasoning_effort: Literal["none"] | None = Field(None, description="Models here answer as they were trained to.")
    safety_identifier: Annotated[str, Field(max_length=64)] | None = Field(
        None, description="Without effect: nobody is watched."
    )
    prompt_cache_key: str | None = Field(None, description="Without effect: prefixes are kept by themselves.")
    prompt_cache_retention: Literal["in_memory", "24h"] | None = Field(
        None, description="Without effect: prefixes are kept while there is memory."
    )
    prompt_cache_options: CacheOptions | None = None
    audio: Any = Field(None, description="Refused.")
    prediction: Any = Field(None, description="Refused.")
    web_search_options: Any = Field(None, description="Refused.")
    moderation: Any = Field(None, description="Refused.")
    functions: Any = Field(None, description="Refused: send `tools`.")
    function_call: Any = Field(None, description="Refused: send `tool_choice`.")

    @field_validator("store", mode="before")
    @classmethod
    def _refuse_store(cls, value: object) -> object:
        if value is True:
            raise ValueError("completions are not kept here; leave it out")
        return value


def require_supported(request: ChatRequest) -> None:
    """Refuse what has no meaning here, alone or beside other fields.

    Args:
        request: With right types.

    Raises:
        ApiError: 400 that names the field.
    """
    for name, reason in UNSUPPORTED.items():
        if getattr(request, name) is not None:
            told = f"Unsupported parameter: '{name}' is not supported by this server: {reason}."
            raise ApiError(400, told, param=name, code="unsupported_parameter")
    if request.max_tokens is not None and request.max_completion_tokens is not None:
        told = "Setting 'max_tokens' and 'max_completion_tokens' at the same time is not supported."
        raise ApiError(400, told, param="max_tokens", code="invalid_parameter_combination")
    if request.top_logprobs is not None and not request.logprobs:
        raise ApiError(
            400, "The 'top_logprobs' parameter is only allowed when 'logprobs' is enabled.", param="logprobs"
        )
    require_stream(request)
    _require_metadata(request.metadata or {})
    _require_tools(request)


def _require_metadata(metadata: Mapping[str, str]) -> None:
    too_long = any(len(key) > MAX_KEY or len(value) > MAX_VALUE for key, value in metadata.items())
    if too_long or len(metadata) > MAX_METADATA:
        told = f"at most {MAX_METADATA} pairs, keys of {MAX_KEY} characters and values of {MAX_VALUE}"
        raise invalid("metadata", f"Invalid 'metadata': it may have {told}.")


def _require_tools(request: ChatRequest) -> None:
    names = [tool.function.name for tool in request.tools or []]
    for number, name in enumerate(names):
        if name in names[:number]:
            told = f"Invalid 'tools': there are two functions of the name {name!r}."
            raise invalid(f"tools[{number}].function.name", told)
    choice = request.tool_choice
    if not names:
        for field, given in (("tool_choice", choice not in (None, "none")), ("parallel_tool_calls", _given(request))):
            if given:
                raise ApiError(400, f"'{field}' is only allowed when 'tools' are specified.", param=field)
        return
    chosen = [choice] if isinstance(choice, NamedTool) else []
    chosen += choice.allowed_tools.tools if isinstance(choice, AllowedToolsChoice) else []
    for tool in chosen:
        if tool.function.name not in names:
            told = f"Tool choice '{tool.function.name}' not found in 'tools' parameter."
            raise invalid("tool_choice", f"Invalid value for 'tool_choice': {told}")


def _given(request: ChatRequest) -> bool:
    return request.parallel_tool_calls is not None
