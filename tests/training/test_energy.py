"""Energy is what counters say; one that cannot be read makes it unknown, and one that begins again costs nothing."""

from pathlib import Path

import pytest
import torch

from kivnun.training.energy import EnergyMeter, find_counters

CPU = torch.device("cpu")


def write_counter(root: Path, name: str, count: int, *, kind: str = "package-0") -> Path:
    folder = root / name
    folder.mkdir(exist_ok=True)
    (folder / "name").write_text(f"{kind}\n")
    (folder / "max_energy_range_uj").write_text("1000000000\n")
    (folder / "energy_uj").write_text(f"{count}\n")
    return folder


def test_energy_is_the_sum_of_all_packages_since_the_last_question(tmp_path: Path) -> None:
    write_counter(tmp_path, "intel-rapl:0", 5_000_000)
    write_counter(tmp_path, "intel-rapl:1", 900_000_000, kind="package-1")
    write_counter(tmp_path, "intel-rapl:0:0", 1, kind="core")  # a part of its package, which would count twice
    meter = EnergyMeter(find_counters(CPU, tmp_path))
    write_counter(tmp_path, "intel-rapl:0", 7_500_000)
    write_counter(tmp_path, "intel-rapl:1", 100_000_000, kind="package-1")  # began again at 1000 J
    write_counter(tmp_path, "intel-rapl:0:0", 400_000_000, kind="core")
    assert meter.take_joules() == pytest.approx(2.5 + 200)
    assert meter.take_joules() == 0


def test_a_counter_that_cannot_be_read_any_more_makes_energy_unknown(tmp_path: Path) -> None:
    folder = write_counter(tmp_path, "intel-rapl:0", 5)
    write_counter(tmp_path, "intel-rapl:1", 5)
    meter = EnergyMeter(find_counters(CPU, tmp_path))
    (folder / "energy_uj").unlink()
    assert meter.take_joules() is None


def test_a_machine_without_counters_says_nothing(tmp_path: Path) -> None:
    assert find_counters(CPU, tmp_path / "none") == []
    assert EnergyMeter([]).take_joules() is None
