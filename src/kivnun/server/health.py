"""Whether a server is well, for people and for Prometheus."""

import time
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST
from sqlalchemy import func, select, text
from sqlalchemy.exc import SQLAlchemyError

from kivnun.database.tables import FineTuningJob
from kivnun.jobs.memory import machine_bytes
from kivnun.server.callers import get_service
from kivnun.server.service import Service
from kivnun.server.workers import Workers

router = APIRouter(tags=["server"])
TheService = Annotated[Service, Depends(get_service)]
_STARTED = time.time()


@router.get("/health")
def health(request: Request, service: TheService) -> JSONResponse:
    """200 while the server can work, 503 with what is wrong while it cannot. It needs no key and tells no names."""
    database = _database_problem(service)
    workers: Workers | None = getattr(request.app.state, "workers", None)
    pool = service.pool.facts()
    in_memory = {"models": len(pool.models), "running": pool.running, "waiting": pool.waiting} if pool else None
    body: dict[str, Any] = {
        "status": "ok" if database is None else "error",
        "uptime_seconds": int(time.time() - _STARTED),
        "database": database or "ok",
        "workers": {"wanted": workers.wanted if workers else 0, "alive": workers.alive if workers else 0},
        "pool": in_memory or "loading libraries",
    }
    return JSONResponse(body, 200 if database is None else 503)


@router.get("/metrics")
def metrics(request: Request, service: TheService) -> Response:
    """Everything that is counted. It needs no key, and tells no names of files, models or projects."""
    with service.database.reading() as session:
        query = select(FineTuningJob.status, func.count()).group_by(FineTuningJob.status)
        jobs = {row[0]: row[1] for row in session.execute(query)}
        needs = select(func.sum(FineTuningJob.memory_bytes)).where(FineTuningJob.status == "running")
        reserved = float(session.scalar(needs) or 0)
    limit = service.settings.memory_of_jobs
    workers: Workers | None = getattr(request.app.state, "workers", None)
    facts: dict[str, float] = {
        "workers_wanted": workers.wanted if workers else 0,
        "workers_alive": workers.alive if workers else 0,
        "jobs_memory_bytes": machine_bytes() if limit is None else limit,
        "jobs_memory_reserved_bytes": reserved,
    }
    pool = service.pool.facts()
    if pool is not None:
        facts |= {
            "pool_models": len(pool.models),
            "pool_rows_running": pool.running,
            "pool_rows_waiting": pool.waiting,
            "pool_memory_bytes": pool.memory_bytes,
            "pool_model_bytes": pool.model_bytes,
            "pool_prefix_bytes": pool.prefix_bytes,
        }
    return Response(service.counters.to_text(facts, jobs), media_type=CONTENT_TYPE_LATEST)


def _database_problem(service: Service) -> str | None:
    try:
        with service.database.reading() as session:
            session.execute(text("SELECT 1"))
    except SQLAlchemyError as error:
        # Its text may hold the database's address.
        return type(error).__name__
    return None
