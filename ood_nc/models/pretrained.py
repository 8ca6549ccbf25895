"""Whether timm's pretrained weights can be fetched, found out in seconds."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub import constants

TIMEOUT = 5.0


@contextmanager
def from_cache_without_network() -> Iterator[bool]:
    """Where Hugging Face cannot be reached, let its client look into its cache alone: it would try for minutes.

    Yields:
        Whether it can be reached.
    """
    reachable = not constants.HF_HUB_OFFLINE and _answers(constants.ENDPOINT)
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = not reachable
    try:
        yield reachable
    finally:
        constants.HF_HUB_OFFLINE = before


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=TIMEOUT):
            return True
    except urllib.error.HTTPError:  # an answer too
        return True
    except (OSError, ValueError):
        return False
