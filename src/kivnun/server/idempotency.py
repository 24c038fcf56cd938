"""Creating once: what a client's `Idempotency-Key` made is answered again instead of made again, for a day.

OpenAI's libraries repeat a POST that timed out and send no such header by themselves; whoever sends one is safe.
"""

import time
from dataclasses import dataclass

from fastapi import Request
from sqlalchemy import delete
from sqlalchemy.orm import Session

from kivnun.database.tables import IdempotencyKey
from kivnun.server.errors import ApiError

HEADER = "idempotency-key"
MAX_LENGTH = 255
KEPT_SECONDS = 24 * 3600


@dataclass(frozen=True)
class Creation:
    """A request that creates something, as its client may name it.

    Attributes:
        project_id: Whose it is.
        key: The client's name for the request; None for none.
        kind: What is created, such as `file`.
        fingerprint: SHA-256 of what was asked, so that another request under the same name is refused.
    """

    project_id: str
    key: str | None
    kind: str
    fingerprint: str

    def find(self, session: Session) -> str | None:
        """The id of what the same request made before; None if it made nothing.

        Args:
            session: Of the very transaction that will create, so that two at once make one.

        Raises:
            ApiError: 400 where the name stood for another request.
        """
        row = session.get(IdempotencyKey, (self.project_id, self.key)) if self.key is not None else None
        if row is None or row.created_at < time.time() - KEPT_SECONDS:
            return None
        if (row.kind, row.fingerprint) != (self.kind, self.fingerprint):
            message = "This Idempotency-Key was used for another request within the last 24 hours."
            raise ApiError(400, message, type="idempotency_error", code="idempotency_key_reused")
        return row.subject_id

    def keep(self, session: Session, subject_id: str) -> None:
        """Remember what was made, in the transaction that made it.

        Args:
            session: In a transaction that writes.
            subject_id: What was made.
        """
        if self.key is not None:
            now = int(time.time())
            session.merge(
                IdempotencyKey(
                    project_id=self.project_id,
                    key=self.key,
                    kind=self.kind,
                    fingerprint=self.fingerprint,
                    subject_id=subject_id,
                    created_at=now,
                )
            )


def read_key(request: Request) -> str | None:
    """The name that a client gave its request.

    Args:
        request: That creates something.

    Raises:
        ApiError: 400 for one that is empty, too long, or holds signs that a header should not.
    """
    key = request.headers.get(HEADER)
    if key is None:
        return None
    if not 0 < len(key) <= MAX_LENGTH or not key.isascii() or not key.isprintable():
        raise ApiError(400, f"The Idempotency-Key must have 1 to {MAX_LENGTH} printable ASCII signs.")
    return key


def forget_old(session: Session) -> None:
    """Remove the keys of yesterday.

    Args:
        session: In a transaction that writes.
    """
    session.execute(delete(IdempotencyKey).where(IdempotencyKey.created_at < int(time.time()) - KEPT_SECONDS))
