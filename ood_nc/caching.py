"""`functools.cached_property` without its lock, which Python has dropped since 3.12."""

from __future__ import annotations

import sys
from functools import cached_property
from typing import TYPE_CHECKING, Any

__all__ = ["cached_property"]

if sys.version_info < (3, 12) and not TYPE_CHECKING:
    # That lock is one for all instances: threads that each work on objects of their own would wait for each other.
    _MISSING = object()

    class cached_property(cached_property):
        """A property that is computed at the first look; where two threads look at once, perhaps in both."""

        def __get__(self, instance: Any, owner: type | None = None) -> Any:
            if instance is None:
                return self
            value = vars(instance).get(self.attrname, _MISSING)
            if value is _MISSING:
                value = vars(instance)[self.attrname] = self.func(instance)
            return value
