from __future__ import annotations

from importlib.metadata import PackageNotFoundError

import pytest

from ood_nc.detection import faiss_backend, faiss_variant
from ood_nc.errors import MissingPackageError, UserError


def installed(monkeypatch, *names):
    def version(name):
        if name not in names:
            raise PackageNotFoundError(name)
        return "1.0"

    monkeypatch.setattr(faiss_backend, "version", version)


def test_which_wheel(monkeypatch):
    for name, variant in (("faiss-cpu", "faiss-cpu"), ("faiss-gpu", "faiss-gpu"), ("faiss-gpu-cu12", "faiss-gpu")):
        installed(monkeypatch, name)
        assert faiss_variant() == variant
    installed(monkeypatch)
    assert faiss_variant() == "other"


def test_both_wheels(monkeypatch):
    installed(monkeypatch, "faiss-cpu", "faiss-gpu")
    with pytest.raises(UserError, match="pip uninstall -y faiss-cpu faiss-gpu") as caught:
        faiss_variant()
    assert "\n" not in str(caught.value)


def test_no_wheel(monkeypatch):
    installed(monkeypatch)
    monkeypatch.setitem(__import__("sys").modules, "faiss", None)
    with pytest.raises(MissingPackageError, match="faiss-cpu"):
        faiss_variant()
