"""What the doctor finds here, and what it says where something is amiss."""

from __future__ import annotations

import shutil
from collections import namedtuple
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from packaging.requirements import Requirement

from ood_nc.cli import doctor, main
from ood_nc.detection import faiss_variant
from ood_nc.errors import MissingPackageError

Usage = namedtuple("Usage", "total used free")


def test_a_machine_that_runs_these_tests_is_ready(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    for name in ("torch", "timm", "scikit-learn", faiss_variant()):
        assert f"{name} {version(name)}" in out
    assert out.splitlines()[-1].startswith("ready")


def test_quiet_is_the_verdict_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--quiet"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_no_faiss_and_a_full_disk_are_said_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def absent() -> str:
        raise MissingPackageError("Nearest neighbours need faiss: pip install faiss-cpu.")

    monkeypatch.setattr("ood_nc.detection.faiss_variant", absent)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10, 10, 2**30 - 1))
    assert main(["doctor", "--quiet"]) == 2
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("not ready: ")
    assert "pip install faiss-cpu" in line and f"{Path.cwd()} has less than 1 GiB free" in line


def test_a_package_too_old_or_absent_is_named_with_its_remedy() -> None:
    declared = [Requirement(text) for text in ("numpy>=1", "torch>=99", "nowhere>=2", "faiss-cpu>=99")]
    found = doctor.packages([*declared, Requirement('opacus>=99; extra == "privacy"')])
    assert found.trouble == "pip install 'torch>=99' 'nowhere>=2'"
    assert "nowhere absent" in found.found and "opacus" not in found.found


def test_extras_are_there_when_all_of_them_is() -> None:
    declared = [
        Requirement(text)
        for text in ('numpy; extra == "a"', 'numpy; extra == "b"', 'nowhere; extra == "b"', 'numpy; extra == "dev"')
    ]
    assert doctor.extras(declared).found == "a; absent: b"


def test_faiss_that_disagrees_with_torch_is_not_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not doctor.neighbours().trouble
    measured = torch.cdist
    monkeypatch.setattr(torch, "cdist", lambda *rows: measured(*rows) + 1)
    assert "other neighbours than torch" in doctor.neighbours().trouble


@pytest.mark.parametrize(
    ("pools", "said"),
    [
        ([("libgomp", "torch", 1), ("libgomp", "faiss_cpu.libs", 1)], ("", "")),
        ([("libgomp", "torch", 10_000)], ("", "export OMP_NUM_THREADS=")),
        ([("libiomp", "torch", 1), ("libomp", "faiss", 1)], ("may hang", "")),
    ],
)
def test_thread_pools(
    pools: list[tuple[str, str, int]], said: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = [
        {"user_api": "openmp", "prefix": prefix, "filepath": f"/x/site-packages/{owner}/x.so", "num_threads": threads}
        for prefix, owner, threads in pools
    ]
    monkeypatch.setattr("threadpoolctl.threadpool_info", lambda: [*loaded, {"user_api": "blas"}])
    found = doctor.thread_pools()
    assert found.found.startswith("torch (lib")
    for text, part in zip((found.trouble, found.advice), said, strict=True):
        assert (part in text) if part else not text


def test_a_driver_that_torch_does_not_see_is_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    line, code = doctor.verdict(list(doctor.devices()))
    assert code == 0 and line.startswith("ready, but: there is an NVIDIA driver")


def test_accelerators_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    card = SimpleNamespace(name="H200", total_memory=139 * 2**30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: card)
    assert [one.found for one in doctor.devices()][1] == "cuda; cuda:0 H200, 139 GiB"


def test_a_folder_that_cannot_be_written_to(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("os.access", lambda *_: False)
    assert "cannot be written to" in doctor.free_disk("disk", tmp_path).trouble
