"""Feature banks: every tap of every image from one forward pass, and their cache on disk."""

from ood_nc.features.bank import FeatureBank
from ood_nc.features.batches import ImageBatches
from ood_nc.features.derived import Derive, DerivedStore
from ood_nc.features.extraction import Forwarded, UnreadableError, extract, forwarded
from ood_nc.features.store import BankStore

__all__ = [
    "BankStore",
    "Derive",
    "DerivedStore",
    "FeatureBank",
    "Forwarded",
    "ImageBatches",
    "UnreadableError",
    "extract",
    "forwarded",
]
