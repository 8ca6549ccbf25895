"""The one class of each image, from whatever a loss is given for targets."""

from __future__ import annotations

import torch

from ood_nc.arrays import ArrayLike, as_labels, as_tensor
from ood_nc.errors import UserError

_SHARES = 1.5
"""Class probabilities add up to 1, in half precision to about that; two labels to 2."""


def one_class(targets: ArrayLike, n: int) -> torch.Tensor:
    """Class indices (n,) of targets: themselves, or of class probabilities (n, C) the heaviest.

    Raises:
        UserError: shapes that do not fit, or an image with several labels, none of which is its class.
    """
    values = as_tensor(targets, "targets")
    compiling = torch.compiler.is_compiling()  # which cannot look into values
    if values.ndim == 2:
        if not compiling and bool((values.sum(dim=1) > _SHARES).any()):
            raise UserError("An image has several labels: this loss needs images of one class each.")
        values = values.argmax(dim=1)
    return values.long() if compiling else as_labels(values, n, name="targets")
