"""Addresses of OpenAI's API that are not here, with what is: nobody should look for a typing error there."""

import re

_AREA = re.compile(r"/(?:v1|openai|openai/v1)/(?!v1/)([\w/-]*\w)$")
_CHAT = "use /v1/chat/completions"
# By the beginning of an address behind /v1/; the first that fits.
NOT_SERVED = {
    "responses": _CHAT,
    "conversations": _CHAT,
    "realtime": f"{_CHAT}, with `stream`",
    "assistants": f"{_CHAT}, with `tools`",
    "threads": f"{_CHAT}, with all messages of the conversation",
    "vector_stores": "use /v1/embeddings, and keep the vectors yourself",
    "moderations": "nothing is moderated here",
    "images": "models here write text alone",
    "audio": "models here read and write text alone",
    "videos": "models here write text alone",
    "evals": "`kivnun evaluate` measures a model",
    "fine_tuning/alpha/graders": "there are no graders here",
    "chat/completions": "completions are not kept here",
    "organization": "`kivnun keys` manages keys, projects and quotas",
    "containers": "no code is run here",
    "skills": "no code is run here",
}


def say_unknown_address(method: str, path: str) -> str:
    """What a client is told of an address that nothing answers at.

    Args:
        method: Of HTTP.
        path: As it came.
    """
    address = f"Unknown request URL: {method} {path}."
    found = _AREA.match(path)
    rest = found[1] if found else ""
    for area, instead in NOT_SERVED.items():
        if rest == area or rest.startswith(f"{area}/"):
            return f"{address} It is not served here: {instead}."
    return f"{address} Please check the URL for typos."
