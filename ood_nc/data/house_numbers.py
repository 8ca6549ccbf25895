"""SVHN's full numbers: photographs of house numbers with the digits that each shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ood_nc.errors import MissingPackageError, UserError
from ood_nc.progress import progress


def read_house_numbers(path: Path) -> list[tuple[str, list[int]]]:
    """The images and their digits, as the ``digitStruct.mat`` of SVHN's first format has them.

    Args:
        path: of that file (MATLAB 7.3, which is HDF5).

    Returns:
        (file name, digits from left to right) of each image; the digit 0 is 10, as in the file.

    Raises:
        MissingPackageError: h5py is not installed.
        UserError: no such file, or one that is laid out otherwise.

    Source: Netzer et al., "Reading Digits in Natural Images with Unsupervised Feature Learning" (2011).
    """
    try:
        import h5py
    except ImportError:
        raise MissingPackageError(f"{path} is an HDF5 file: pip install h5py.") from None
    try:
        with h5py.File(path, "r") as file:
            names, boxes = file["digitStruct/name"][:, 0], file["digitStruct/bbox"][:, 0]
            found = []
            with progress(f"reading {path.name}", total=len(names)) as advance:
                for name, box in zip(names, boxes, strict=True):
                    found.append((_text(file[name]), _numbers(file, file[box]["label"])))
                    advance(1)
    except (OSError, KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        reason = " ".join(str(error).split())[:150]
        raise UserError(f"{path} is no digitStruct.mat of SVHN's full numbers: {reason}.") from None
    strange = next((name for name, _ in found if Path(name).name != name), None)
    if strange is not None:
        raise UserError(f"{path} names the image {strange!r}, which is not beside it.")
    return found


def _text(characters: Any) -> str:
    return "".join(chr(code) for code in characters[:, 0])


def _numbers(file: Any, column: Any) -> list[int]:
    """A column of numbers: the number itself where there is one, else a reference to each."""
    values = column[:, 0]
    return [int(values[0])] if len(values) == 1 else [int(file[one][0, 0]) for one in values]
