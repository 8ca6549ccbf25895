from __future__ import annotations

import http.server
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from ood_nc.errors import UserError
from ood_nc.models import ControlledModel
from ood_nc.models.pretrained import from_cache_without_network


class Refusing(http.server.BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:
        self.send_error(403)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def answering() -> Iterator[str]:
    with http.server.HTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def silent() -> Iterator[str]:
    """Takes the connection and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def test_weights_without_a_network_fail_at_once_and_name_the_way_out(
    silent: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("ood_nc.models.pretrained.TIMEOUT", 0.3)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    for endpoint in (silent, "http://127.0.0.1:9", "http://nowhere.invalid", "no address"):
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)
        start = time.perf_counter()
        with pytest.raises(UserError, match=r"no network.*--checkpoint FILE") as raised:
            ControlledModel("resnet10t", 1000, pretrained=True, projector=None)
        assert time.perf_counter() - start < 5 and "\n" not in str(raised.value)
        assert not constants.HF_HUB_OFFLINE


def test_an_answer_of_any_kind_is_a_network(answering: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", answering)
    with from_cache_without_network() as reachable:
        assert reachable and not constants.HF_HUB_OFFLINE
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with from_cache_without_network() as reachable:
        assert not reachable, "the user's wish"
    assert constants.HF_HUB_OFFLINE
