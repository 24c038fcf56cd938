"""New names for rows that clients see: a prefix and 24 random letters and digits."""

import secrets
import string

SIGNS = string.ascii_letters + string.digits
LENGTH = 24


def new_id(prefix: str, *, length: int = LENGTH) -> str:
    """A name that nobody can guess.

    Args:
        prefix: With its separator, such as `file-`, `ftjob-` or `ftckpt_`.
        length: Number of random signs.
    """
    return prefix + "".join(secrets.choice(SIGNS) for _ in range(length))
