"""API keys: 256 random bits that are shown once; what is kept is a hash that nobody can turn back."""

import hashlib
import hmac
import secrets
import time
from collections.abc import Collection, Sequence

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from kivnun.database.identifiers import new_id
from kivnun.database.projects import DEFAULT_PROJECT
from kivnun.database.tables import ApiKey
from kivnun.errors import UserError

SECRET_PREFIX = "sk-kivnun-"  # noqa: S105 - how each begins, not a secret
SECRET_BYTES = 32
AREAS = ("files", "fine_tuning", "models", "inference", "batches", "admin")
SCOPES = tuple(f"{area}{suffix}" for area in ("all", *AREAS) for suffix in ("", ":read"))
# Often enough to see which keys are in use, and too seldom to make every request a write.
SECONDS_BETWEEN_USES = 60


def create_key(
    session: Session,
    name: str,
    *,
    project_id: str = DEFAULT_PROJECT,
    scopes: Collection[str] = ("all",),
    expires_at: int | None = None,
) -> tuple[ApiKey, str]:
    """Make a key for a project.

    Returns:
        Its row, and the secret, which can never be read again.

    Raises:
        UserError: `key-invalid` for a scope that does not exist, a time that has passed, or a name too long.
    """
    now = int(time.time())
    _require_valid(name, scopes, expires_at, now)
    secret = SECRET_PREFIX + secrets.token_urlsafe(SECRET_BYTES)
    key = ApiKey(
        id=new_id("key_"),
        project_id=project_id,
        name=name,
        key_sha256=hash_secret(secret),
        shown=mask_secret(secret),
        scopes=[scope for scope in SCOPES if scope in scopes],
        created_at=now,
        expires_at=expires_at,
        revoked_at=None,
        last_used_at=None,
    )
    session.add(key)
    session.flush()
    return key, secret


def find_key(session: Session, secret: str, *, now: float | None = None) -> ApiKey | None:
    """The key of a secret, if there is one that is neither revoked nor expired.

    Found through an index of hashes, so that the time it takes says nothing about any secret.
    """
    hashed = hash_secret(secret)
    key = session.scalar(select(ApiKey).where(ApiKey.key_sha256 == hashed))
    if key is None or not hmac.compare_digest(key.key_sha256, hashed):
        return None
    moment = time.time() if now is None else now
    expired = key.expires_at is not None and key.expires_at <= moment
    return None if expired or key.revoked_at is not None else key


def note_use(session: Session, key_id: str, now: int) -> None:
    """Remember that a key was used, unless somebody did within the minute."""
    stale = ApiKey.last_used_at.is_(None) | (ApiKey.last_used_at <= now - SECONDS_BETWEEN_USES)
    session.execute(update(ApiKey).where(ApiKey.id == key_id, stale).values(last_used_at=now))


def list_keys(session: Session, project_id: str | None = None) -> Sequence[ApiKey]:
    """The keys of a project or of all, the newest first, revoked ones too."""
    query = select(ApiKey).order_by(ApiKey.created_at.desc(), ApiKey.id)
    return session.scalars(query if project_id is None else query.where(ApiKey.project_id == project_id)).all()


def revoke_key(session: Session, key_id: str) -> ApiKey:
    """End a key for good; once revoked, it stays as it was.

    Raises:
        UserError: `key-invalid` if there is no such key.
    """
    key = session.get(ApiKey, key_id)
    if key is None:
        raise UserError("key-invalid", f"there is no key {key_id!r}", hint="`kivnun keys list` shows their ids")
    if key.revoked_at is None:
        key.revoked_at = int(time.time())
        session.flush()
    return key


def hash_secret(secret: str) -> str:
    """What is kept of a secret; 256 random bits need no salt and no slow hash."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def mask_secret(secret: str) -> str:
    """A secret as it may be shown: enough of both ends to recognise it, and nothing of a short one."""
    return f"{secret[:6]}***{secret[-4:]}" if len(secret) >= 20 else "***"


def allows(scopes: Collection[str], wanted: str) -> bool:
    """Whether a key of these scopes may do what needs `wanted`; `files` holds `files:read`, and `all` everything."""
    area, _, right = wanted.partition(":")
    enough = {area, "all"} | ({f"{area}:read", "all:read"} if right == "read" else set[str]())
    return not enough.isdisjoint(scopes)


def _require_valid(name: str, scopes: Collection[str], expires_at: int | None, now: int) -> None:
    unknown = [scope for scope in scopes if scope not in SCOPES]
    if unknown or not scopes:
        problem = f"there is no scope {unknown[0]!r}" if unknown else "a key needs a scope"
        raise UserError("key-invalid", problem, hint=f"the scopes are {', '.join(SCOPES)}")
    if not 0 < len(name) <= 128 or not name.isprintable():
        problem = f"a key's name of {len(name)} signs is too long, empty or has signs that cannot be printed"
        raise UserError("key-invalid", problem, hint="use 1 to 128 printable signs")
    if expires_at is not None and expires_at <= now:
        raise UserError("key-invalid", "the key would expire before it exists", hint="give a later time")
