"""Which process this one is."""

from __future__ import annotations

from ood_nc.processes import is_main_process


def test_the_first_process_is_the_main_one(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    assert is_main_process()
    monkeypatch.setenv("RANK", "1")
    assert is_main_process()  # left over from elsewhere
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert not is_main_process()
