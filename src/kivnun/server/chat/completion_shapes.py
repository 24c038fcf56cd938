"""The request of POST /completions, the API's older form: a prompt as it stands, continued."""

from typing import Annotated, Any

from pydantic import Field

from kivnun.server.chat.sampling_fields import SamplingFields, require_stream
from kivnun.server.errors import ApiError, invalid

DEFAULT_MAX_TOKENS = 16
MAX_ANSWERS = 2048
TokenId = Annotated[int, Field(ge=0)]
Tokens = Annotated[list[TokenId], Field(min_length=1)]
Texts = Annotated[list[str], Field(min_length=1)]
TokenLists = Annotated[list[Tokens], Field(min_length=1)]


class CompletionRequest(SamplingFields):
    """The body of POST /completions."""

    prompt: (
        str | Tokens | Annotated[list[str], Field(min_length=1)] | Annotated[list[Tokens], Field(min_length=1)] | None
    ) = Field(None, description="Without one, a new document is begun.")
    best_of: Annotated[int, Field(ge=0, le=20)] | None = None
    echo: bool | None = None
    logprobs: Annotated[int, Field(ge=0, le=5)] | None = None
    max_tokens: Annotated[int, Field(ge=0)] | None = None
    suffix: Any = Field(None, description="Refused: models here write on from the left alone.")


def require_completion(request: CompletionRequest) -> None:
    """Refuse what has no meaning here, alone or beside other fields.

    Args:
        request: With right types.

    Raises:
        ApiError: 400 that names the field.
    """
    if request.suffix not in (None, ""):
        told = "Unsupported parameter: 'suffix' is not supported by this server: models write on from the left alone."
        raise ApiError(400, told, param="suffix", code="unsupported_parameter")
    num_answers = request.n or 1
    if request.best_of and request.best_of < num_answers:
        told = f"You requested that the server return more choices than it will generate (n = {num_answers}, "
        raise invalid("best_of", told + f"best_of = {request.best_of}).")
    if request.best_of and request.best_of > num_answers and request.stream:
        raise invalid("best_of", "Streaming is not supported with 'best_of' greater than 'n'.")
    if request.max_tokens == 0 and not request.echo:
        raise invalid("max_tokens", "Invalid 'max_tokens': 0 is only allowed with 'echo', which tells of the prompt.")
    if len(prompts_of(request)) * max(num_answers, request.best_of or 1) > MAX_ANSWERS:
        raise invalid("prompt", f"Invalid 'prompt': one request may ask for at most {MAX_ANSWERS} answers.")
    require_stream(request)


def prompts_of(request: CompletionRequest) -> list[str | list[int]]:
    """The prompts, each as text or as tokens.

    Args:
        request: Of the client.
    """
    prompt = request.prompt
    if prompt is None:
        return [""]
    if isinstance(prompt, str):
        return [prompt]
    if isinstance(prompt[0], int):
        return [[int(token) for token in prompt if isinstance(token, int)]]
    return [each for each in prompt if not isinstance(each, int)]
