"""vLLM as a subprocess: one base model with its LoRA adapters, on a port of loopback that only we have the key of.

vLLM takes the accelerator for itself, so that one base is served at a time; another takes its place once nobody asks
the first any more. Adapters are added while it runs.

Reference: https://docs.vllm.ai/en/stable/features/lora.html (`--enable-lora`, and
`/v1/load_lora_adapter` with `VLLM_ALLOW_RUNTIME_LORA_UPDATING`).
"""

import asyncio
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2

from kivnun.errors import UserError
from kivnun.models.resolve import bundled_folder
from kivnun.serving.answers import BusyError

COMMAND = "vllm"
LOG_NAME = "vllm.log"
START_SECONDS = 1800.0
STOP_SECONDS = 15.0
POLL_SECONDS = 0.1
MAX_LORAS = 8
# What vLLM allows; each adapter slot takes memory for the greatest.
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
USUAL_RANK = 64
TAIL_BYTES = 2000
RETRY_SECONDS = 5.0


@dataclass(frozen=True)
class VllmModel:
    """A model as vLLM is asked for it.

    Attributes:
        base: A folder or a Hugging Face id.
        base_name: What requests call the base.
        name: What requests call the model; the base's, unless it is an adapter.
        adapter: A LoRA adapter of the base; None for the base itself.
    """

    base: str
    base_name: str
    name: str
    adapter: Path | None = None


def name_model(name: str, base: str, tuned: Path | None) -> VllmModel:
    """How vLLM serves a model.

    Args:
        name: What clients call it, if it is tuned.
        base: `bundled`, a folder or a Hugging Face id.
        tuned: What a training wrote: an adapter, or a whole model, which is then a base of its own.
    """
    if tuned is not None and not (tuned / "adapter_config.json").is_file():
        return VllmModel(str(tuned), name, name)
    found = str(bundled_folder(base) or base)
    # Answers tell the name, which must not tell a path of this machine.
    label = Path(found).name if Path(found).is_dir() else found
    return VllmModel(found, label, label if tuned is None else name, tuned)


class VllmServer:
    """A running vLLM.

    Args:
        process: Ends when its standard input is closed.
        client: Has its key.
        model: What it was started for.
        log_file: What it says.
    """

    def __init__(
        self, process: "subprocess.Popen[bytes]", client: httpx2.AsyncClient, model: VllmModel, log_file: Path
    ) -> None:
        self.process = process
        self.client = client
        self.base = model.base
        self.names = {model.base_name}
        self.num_asking = 0
        self.adding = asyncio.Lock()
        self._log_file = log_file
        # Goes on when the client that asked first leaves: a start takes minutes, and others wait for it.
        self.ready = asyncio.create_task(self._wait_until_healthy())

    @property
    def runs(self) -> bool:
        """Whether its process is alive."""
        return self.process.poll() is None

    async def end(self) -> None:
        """End the process, and wait for that."""
        self.ready.cancel()
        await asyncio.gather(self.ready, return_exceptions=True)
        await self.client.aclose()
        if self.process.stdin is not None:
            # The process that binds vLLM to us ends it when nobody holds this any more.
            self.process.stdin.close()
        end = time.monotonic() + STOP_SECONDS
        while self.runs and time.monotonic() < end:
            await asyncio.sleep(POLL_SECONDS / 2)
        if self.runs:
            self.process.kill()
            self.process.wait()

    async def _wait_until_healthy(self) -> None:
        end = time.monotonic() + START_SECONDS
        while self.runs and time.monotonic() < end:
            try:
                reply = await self.client.get("/health", timeout=5.0)
            except httpx2.TransportError:
                reply = None
            if reply is not None and reply.status_code == 200:
                return
            await asyncio.sleep(POLL_SECONDS)
        state = "did not answer" if self.runs else f"ended with status {self.process.returncode}"
        hint = f"read {self._log_file}; the base may be of a kind that vLLM does not know, or too large"
        problem = f"vllm {state} with {self.base}"
        raise UserError("engine-failed", problem, hint=hint, details=_last_lines(self._log_file))


class VllmServers:
    """The vLLM of a server: started at the first request for a base, and ended with us, however we end.

    Args:
        log_folder: What vLLM says is kept there, without what clients write.
        max_rows: Most answers that it computes side by side.
        max_waiting: Most further ones that wait in it.
        log: Told when one starts and ends.

    Raises:
        UserError: `dependency-missing` if there is no `vllm` command.
    """

    def __init__(self, log_folder: Path, *, max_rows: int, max_waiting: int, log: Callable[[str], None]) -> None:
        found = shutil.which(COMMAND)
        if found is None:
            hint = "pip install vllm in an environment whose folder of commands is on PATH, or leave out --engine"
            raise UserError("dependency-missing", "the command `vllm` is not installed", hint=hint)
        self._command = found
        self._log_file = log_folder / LOG_NAME
        self._max_rows = max_rows
        # Those too that wait for it to start, which takes minutes.
        self._max_asking = max_rows + max_waiting
        self._num_asking = 0
        self._log = log
        self._server: VllmServer | None = None
        self._changing = asyncio.Lock()

    @asynccontextmanager
    async def asking(self, model: VllmModel) -> AsyncIterator[VllmServer]:
        """A server that has a model, which stays while it is asked.

        Args:
            model: To be asked.

        Raises:
            BusyError: If another base is being asked, or as many wait for this one as may.
            UserError: `engine-failed` if vLLM does not start, or does not take the adapter.
        """
        if self._num_asking >= self._max_asking:
            raise BusyError(RETRY_SECONDS)
        self._num_asking += 1
        try:
            async with self._having(model) as server:
                yield server
        finally:
            self._num_asking -= 1

    @asynccontextmanager
    async def _having(self, model: VllmModel) -> AsyncIterator[VllmServer]:
        async with self._changing:
            server = await self._server_of(model)
            server.num_asking += 1
        try:
            async with server.adding:
                if model.name not in server.names:
                    await _add_adapter(server, model)
            yield server
        finally:
            server.num_asking -= 1

    async def close(self) -> None:
        """End it."""
        async with self._changing:
            await self._stop()

    async def _server_of(self, model: VllmModel) -> VllmServer:
        server = self._server
        if server is None or not server.runs or server.base != model.base:
            if server is not None and server.runs and server.num_asking:
                raise BusyError(RETRY_SECONDS)
            await self._stop()
            server = self._server = self._start(model)
        try:
            await asyncio.shield(server.ready)
        except UserError:
            await self._stop()
            raise
        return server

    def _start(self, model: VllmModel) -> VllmServer:
        port, key = _free_port(), secrets.token_urlsafe(32)
        arguments = vllm_arguments(model, port=port, max_rows=self._max_rows)
        command = [sys.executable, "-m", "kivnun.serving.bound_process", self._command, *arguments]
        self._log(f"vllm starts with {model.base}; what it says is in {self._log_file}")
        with self._log_file.open("ab") as said:
            process = subprocess.Popen(  # noqa: S603 - a list of our own, through no shell
                command, stdin=subprocess.PIPE, stdout=said, stderr=said, env=vllm_environment(key)
            )
        client = httpx2.AsyncClient(
            base_url=f"http://127.0.0.1:{port}",
            headers={"authorization": f"Bearer {key}"},
            timeout=httpx2.Timeout(None, connect=10.0),
            limits=httpx2.Limits(max_connections=None),
            trust_env=False,
        )
        return VllmServer(process, client, model, self._log_file)

    async def _stop(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            await server.end()
            self._log(f"vllm of {server.base} ended with status {server.process.returncode}")


def vllm_arguments(model: VllmModel, *, port: int, max_rows: int) -> list[str]:
    """What follows `vllm` on the command line.

    Args:
        model: The first that is asked for. An adapter is added later, as all are: one that vLLM does not take must not
            keep the base from starting.
        port: Where it listens.
        max_rows: Most answers side by side.
    """
    arguments = ["serve", model.base, "--served-model-name", model.base_name]
    arguments += ["--host", "127.0.0.1", "--port", str(port)]
    arguments += ["--max-num-seqs", str(max_rows), "--enable-lora", "--max-loras", str(MAX_LORAS)]
    return [*arguments, "--max-lora-rank", str(_rank_room(model.adapter))]


def vllm_environment(key: str) -> Mapping[str, str]:
    """What vLLM finds in its environment: a key that no list of processes shows, and no telling of others.

    Args:
        key: Requests must come with it.
    """
    own = {
        "VLLM_API_KEY": key,
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
        # At INFO some versions write the prompts into the log.
        "VLLM_LOGGING_LEVEL": "WARNING",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
    }
    return {**os.environ, **own}


async def _add_adapter(server: VllmServer, model: VllmModel) -> None:
    wanted = {"lora_name": model.name, "lora_path": str(model.adapter)}
    reply = await server.client.post("/v1/load_lora_adapter", json=wanted, timeout=START_SECONDS)
    if reply.status_code != 200:
        problem = f"vllm does not take the adapter of {model.name}: {reply.text[:TAIL_BYTES]}"
        hint = f"its rank may be above {USUAL_RANK}; restart the server and ask for this model first"
        raise UserError("engine-failed", " ".join(problem.split()), hint=hint)
    server.names.add(model.name)


def _rank_room(adapter: Path | None) -> int:
    if adapter is None:
        return USUAL_RANK
    rank = int(json.loads((adapter / "adapter_config.json").read_text("utf-8"))["r"])
    return next((room for room in RANKS if room >= max(rank, USUAL_RANK)), RANKS[-1])


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def _last_lines(path: Path) -> Sequence[str]:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - TAIL_BYTES))
        return file.read().decode("utf-8", "replace").splitlines()[-5:]
