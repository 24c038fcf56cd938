"""What a training uses: processor, memory, GPU and energy, and how near it comes to the machine's peak.

Sampled between steps, so that no thread disturbs the training:

    meter = UsageMeter(device, dtype, flops_per_token)
    for report in reports:
        ...
        for fields in meter.sample(report):
            log("usage", fields)
"""

import time
from dataclasses import dataclass, field

import psutil
import torch

from kivnun.runs.peak_memory import peak_memory_bytes
from kivnun.training.energy import EnergyMeter, find_counters
from kivnun.training.loop import StepReport
from kivnun.training.peak import forget_peak, peak_flops

SAMPLE_SECONDS = 10.0


@dataclass
class UsageMeter:
    """Gathers steps and says every few seconds what they used.

    Attributes:
        device: Where is computed.
        dtype: Number format of the computation.
        flops_per_token: Operations per token, from `flops.flops_per_token`; None leaves the share of the peak out.
        every_seconds: Time between two samples.
        num_processes: How many processes share the tokens of a step, each on a machine or device of its own.
    """

    device: torch.device
    dtype: torch.dtype
    flops_per_token: float | None = None
    every_seconds: float = SAMPLE_SECONDS
    num_processes: int = 1
    _process: psutil.Process = field(default_factory=psutil.Process, init=False)
    _sampled_at: float = field(default_factory=time.monotonic, init=False)
    _num_tokens: int = field(default=0, init=False)
    _seconds: float = field(default=0.0, init=False)
    _has_doubted: bool = field(default=False, init=False)
    _energy: EnergyMeter = field(init=False)

    def __post_init__(self) -> None:
        """Begin to count the processor's time; psutil gives the share since the call before."""
        self._process.cpu_percent()
        self._energy = EnergyMeter(find_counters(self.device))

    def sample(self, report: StepReport) -> list[dict[str, object]]:
        """Take a step; gives the fields of one `usage` event when it is time for one, else nothing.

        The first sample measures the machine's peak where no earlier run did, which takes about a second.

        Args:
            report: The step that was just done.
        """
        self._num_tokens += report.num_tokens
        self._seconds += report.seconds
        if time.monotonic() - self._sampled_at < self.every_seconds:
            return []
        speed = self._num_tokens / max(self._seconds, 1e-9)
        # Before the peak is measured, whose threads would count as the training's.
        used = {"step": report.step, **self._processor(), **self._graphics(), "tokens_per_second": speed}
        used |= self._spent()
        used |= self._share_of_peak(speed)
        self._num_tokens, self._seconds, self._sampled_at = 0, 0.0, time.monotonic()
        self._process.cpu_percent()
        return [used]

    def _processor(self) -> dict[str, object]:
        memory = self._process.memory_info().rss
        # 100 for every core that was busy all the time.
        share = self._process.cpu_percent()
        return {"cpu_percent": share, "memory_bytes": memory, "peak_memory_bytes": max(memory, peak_memory_bytes())}

    def _spent(self) -> dict[str, object]:
        """Energy since the sample before, which the steps' seconds do not fill: what lies between them counts too."""
        joules = self._energy.take_joules()
        if joules is None:
            return {}
        return {"energy_joules": joules, "energy_seconds": time.monotonic() - self._sampled_at}

    def _graphics(self) -> dict[str, object]:
        if self.device.type != "cuda":
            return {}
        used: dict[str, object] = {
            "gpu_memory_bytes": torch.cuda.memory_reserved(self.device),
            "gpu_peak_memory_bytes": torch.cuda.max_memory_reserved(self.device),
        }
        try:
            used["gpu_percent"] = torch.cuda.utilization(self.device)
        # Only NVIDIA's management library knows it: its package may be missing, and its errors are of its own kind.
        except Exception:  # noqa: BLE001
            return used
        return used

    def _share_of_peak(self, speed: float) -> dict[str, object]:
        if self.flops_per_token is None:
            return {}
        achieved = speed * self.flops_per_token / self.num_processes
        peak = peak_flops(self.device, self.dtype)
        if peak is None:
            return {"flops_per_second": achieved}
        if achieved > peak and not self._has_doubted:
            self._has_doubted = True
            forget_peak(self.device, self.dtype)
        return {"flops_per_second": achieved, "peak_flops_per_second": peak, "peak_share": achieved / peak}
