"""`kivnun serve`: OpenAI's fine-tuning API on this machine."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from kivnun.server.start import Listening

ENGINE_NAMES = ("auto", "torch", "onnx", "vllm")


def serve(
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.", min=0, max=65535)] = 8000,
    host: Annotated[
        str, typer.Option(help="Address to listen at. Beyond this machine, keys are needed.")
    ] = "127.0.0.1",
    data_dir: Annotated[Path, typer.Option(help="Folder for files, jobs, models and the database.")] = Path(
        "kivnun-data"
    ),
    no_auth: Annotated[
        bool, typer.Option("--no-auth", help="Answer without keys; only at a loopback address.")
    ] = False,
    database: Annotated[
        str | None,
        typer.Option(
            help="PostgreSQL, such as postgresql+psycopg://user@host/name; if not given, SQLite in the data folder.",
            envvar="KIVNUN_DATABASE",
            show_envvar=True,
        ),
    ] = None,
    base_model: Annotated[
        str, typer.Option(help="What stands in for hosted names such as gpt-4o-mini: bundled, a folder or an id.")
    ] = "bundled",
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="A further base model, NAME=FOLDER or NAME=ID, or a name for a tuned one, NAME=ft:... Repeatable.",
            metavar="NAME=PATH",
        ),
    ] = None,
    embedding_model: Annotated[
        str | None, typer.Option(help="What answers /embeddings; the default embedder if not given.")
    ] = None,
    engine: Annotated[str, typer.Option(help=f"What computes models: {', '.join(ENGINE_NAMES)}.")] = "auto",
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse data that the hosted service refuses, such as under 10 examples.")
    ] = False,
    workers: Annotated[int, typer.Option(help="Processes that run jobs; 0 for none.", min=0, max=64)] = 1,
    memory_gib: Annotated[
        float | None,
        typer.Option(help="Most memory for models and jobs together; what the machine has if not given.", min=0.1),
    ] = None,
    job_memory_gib: Annotated[
        float | None,
        typer.Option(help="What of it is for jobs, all of them together; half if not given.", min=0.1),
    ] = None,
    max_rows: Annotated[int, typer.Option(help="Most answers that a model computes side by side.", min=1)] = 64,
    max_waiting: Annotated[int, typer.Option(help="Most answers that wait; further ones get 429.", min=0)] = 256,
    max_file_mib: Annotated[int, typer.Option(help="Largest file.", min=1)] = 8192,
    bucket_dir: Annotated[
        Path | None,
        typer.Option(help="Folder that gs:// addresses mean, for Google's library; every project may read all of it."),
    ] = None,
    tls_certificate: Annotated[Path | None, typer.Option(help="PEM file; goes with --tls-key.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="PEM file; goes with --tls-certificate.")] = None,
    as_json: Annotated[
        bool,
        typer.Option(
            "--json",
            help="Print one line of JSON when it answers, and nothing else, on stdout; on stderr, what happens to jobs "
            "is JSON too.",
        ),
    ] = False,
) -> None:
    """Serve files, fine-tuning jobs, models and chat to OpenAI's libraries, until Ctrl-C."""
    if engine not in ENGINE_NAMES:
        raise typer.BadParameter(f"--engine {engine}: it is one of {', '.join(ENGINE_NAMES)}")
    if memory_gib is not None and job_memory_gib is not None and job_memory_gib >= memory_gib:
        raise typer.BadParameter(
            f"--job-memory-gib {job_memory_gib:g} leaves models none of --memory-gib {memory_gib:g}"
        )
    models = _read_models(model or [])
    from kivnun.cli.output import tell
    from kivnun.server.start import ServeSettings, Telling
    from kivnun.server.start import serve as serve_settings

    settings = ServeSettings(
        data_dir=data_dir,
        host=host,
        port=port,
        database_url=database,
        require_keys=not no_auth,
        base_model=base_model,
        models=models,
        embedding_model=embedding_model,
        engine=engine,  # pyright: ignore[reportArgumentType] - checked above
        strict=strict,
        num_workers=workers,
        memory_bytes=None if memory_gib is None else int(memory_gib * 2**30),
        job_memory_bytes=None if job_memory_gib is None else int(job_memory_gib * 2**30),
        max_rows=max_rows,
        max_waiting=max_waiting,
        max_file_bytes=max_file_mib << 20,
        bucket_dir=bucket_dir,
        tls_certificate=tls_certificate,
        tls_key=tls_key,
    )
    telling = Telling(
        log=tell,
        ready=lambda listening: _tell(listening, database, as_json=as_json),
        job=lambda news: tell(json.dumps(news.to_json()) if as_json else str(news)),
    )
    serve_settings(settings, telling)


def _read_models(words: list[str]) -> dict[str, str]:
    models: dict[str, str] = {}
    for word in words:
        name, sign, source = word.partition("=")
        if not (name and sign and source) or name.startswith("ft:"):
            raise typer.BadParameter(
                f"--model {word}: give NAME=FOLDER, NAME=ID or NAME=ft:..., no NAME beginning with ft:"
            )
        if models.setdefault(name, source) != source:
            raise typer.BadParameter(f"--model {name} is given twice")
    return models


def _tell(listening: "Listening", database: str | None, *, as_json: bool) -> None:
    if as_json:
        from dataclasses import asdict

        line: dict[str, Any] = {"event": "ready", **asdict(listening)}
        sys.stdout.write(json.dumps(line, default=str) + "\n")
        sys.stdout.flush()
        return
    from kivnun.cli.output import tell

    tell("\n".join(describe(listening, has_own_database=database is not None)))


def _say_memory(listening: "Listening") -> str:
    models, jobs = listening.model_memory_bytes, listening.job_memory_bytes
    for_models = "most of what is free" if models is None else f"{models / 2**30:.1f} GiB"
    for_jobs = "what the machine has" if jobs is None else f"{jobs / 2**30:.1f} GiB"
    return (
        f"memory: {for_models} for models, {for_jobs} for jobs (--memory-gib for both, --job-memory-gib of it for jobs)"
    )


def _say_open(num_others: int) -> str:
    """What anybody may do who has no key."""
    if not num_others:
        return "--no-auth: every program of this machine may use and delete all of it"
    return (
        "--no-auth: every program of this machine may use and delete what the project `default` has; "
        f"the {num_others} other project(s) are still reached with their keys alone"
    )


def describe(listening: "Listening", *, has_own_database: bool) -> list[str]:
    """What a person needs to know to use it, and what to worry about."""
    from kivnun.server.binding import is_loopback

    place = f"--data-dir {listening.data_dir}" + (" --database ..." if has_own_database else "")
    host = listening.url.split("://")[1].rsplit(":", 1)[0].strip("[]")
    lines = [
        f"serving {', '.join(listening.models)} at {listening.url} (data in {listening.data_dir}, "
        f"{listening.num_workers} worker process(es) for jobs)",
        f"gpt-4o-mini and the like are not on this machine: {listening.stand_in} answers, and is trained, in their "
        "place (--base-model chooses it)",
        _say_memory(listening),
        "",
        f"  export OPENAI_BASE_URL={listening.url}",
    ]
    if not listening.require_keys:
        lines += [
            "  export OPENAI_API_KEY=none",
            "",
            _say_open(listening.num_projects - 1),
        ]
    elif listening.has_keys:
        lines += ["  export OPENAI_API_KEY=...   a key that `kivnun keys create` showed"]
    else:
        lines += [
            "  export OPENAI_API_KEY=...",
            "",
            "there is no key yet, so that every request is refused; this makes one:",
            f"  kivnun keys create first {place}",
        ]
    if not listening.num_workers:
        lines += [
            "",
            "--workers 0: jobs wait until a worker takes them; this starts one:",
            f"  python -m kivnun.jobs {place}",
        ]
    if not is_loopback(host) and listening.url.startswith("http:"):
        lines += [
            "",
            "WITHOUT TLS: keys and data can be read by whoever sees the traffic; give --tls-certificate and --tls-key",
        ]
    return [*lines, "", "Ctrl-C stops it; jobs go on when it is started again"]
