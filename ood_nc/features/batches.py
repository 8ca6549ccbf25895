"""Images batch by batch, the unreadable ones told apart."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from ood_nc.errors import UserError
from ood_nc.processes import bounded_workers


class Reader(Dataset[Any]):
    """Items with their position; an unreadable one as the reason why."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, position: int) -> tuple[int, torch.Tensor | None, str]:
        try:
            return position, self.dataset[position][0], ""
        except Exception as error:
            # Decoders raise almost anything on a damaged file, and one bad file must not end the pass.
            known = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
            return position, None, " ".join(f"{known}{error}".split())[:300]


def collate(
    items: Sequence[tuple[int, torch.Tensor | None, str]],
) -> tuple[torch.Tensor, torch.Tensor | None, list[tuple[int, str]]]:
    """Positions and images of what could be read, and position and reason of what could not."""
    readable = [(position, image) for position, image, _ in items if image is not None]
    rows = torch.tensor([position for position, _ in readable], dtype=torch.long)
    images = torch.stack([image for _, image in readable]) if readable else None
    return rows, images, [(position, reason) for position, image, reason in items if image is None]


class ImageBatches:
    """A data set as batches of (images, labels) in its order, to be gone through any number of times.

    Images that cannot be read are left out.

    Args:
        dataset: `ImageDataset`, its transform set.
        batch_size: images a batch.
        workers: processes that load images.

    Example:
        >>> import torch
        >>> from ood_nc.data import eval_transform, open_dataset
        >>> from ood_nc.features import ImageBatches
        >>> from ood_nc.models import ControlledModel
        >>> model = ControlledModel("test_vit", 10, img_size=32).eval()
        >>> prepare = eval_transform(model.preprocessing)
        >>> images = open_dataset("bundled/digits-id::test").with_transform(prepare)
        >>> [tuple(pixels.shape) for pixels, labels in ImageBatches(images, batch_size=256, workers=0)]
        [(256, 3, 32, 32), (44, 3, 32, 32)]
    """

    def __init__(self, dataset: Any, *, batch_size: int = 128, workers: int = 0) -> None:
        self.dataset, self.batch_size, self.workers = dataset, batch_size, workers

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        labels = torch.as_tensor(self.dataset.targets, dtype=torch.long)
        loader: DataLoader[Any] = DataLoader(
            Reader(self.dataset),
            batch_size=self.batch_size,
            num_workers=bounded_workers(self.workers),
            collate_fn=collate,
            generator=torch.Generator(),  # the global one is the caller's
        )
        for rows, images, _ in loader:
            if images is not None:
                yield images, labels[rows]
