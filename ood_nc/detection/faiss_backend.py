"""faiss, asked for only by what searches neighbours; and which of its two wheels is installed."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from types import ModuleType

from ood_nc.errors import MissingPackageError, UserError

_WHEELS = ("faiss-cpu", "faiss-gpu")
_INSTALL = "pip install faiss-cpu (or faiss-gpu where there is a GPU, not both)"


def faiss_variant() -> str:
    """Which wheel provides faiss: ``"faiss-cpu"``, ``"faiss-gpu"`` (also its CUDA-named builds), or ``"other"``.

    Raises:
        UserError: both are installed. They hold the same module, and the one installed last has overwritten the other.
        MissingPackageError: there is no faiss.
    """
    found = [name for name in (*_WHEELS, "faiss-gpu-cu11", "faiss-gpu-cu12") if _installed(name)]
    if len(found) > 1:
        raise UserError(
            f"{' and '.join(found)} are both installed and overwrite each other: pip uninstall -y {' '.join(found)}, "
            f"then install one of them."
        )
    if found:
        return "faiss-gpu" if found[0].startswith("faiss-gpu") else found[0]
    load_faiss()
    return "other"


def load_faiss() -> ModuleType:
    """Import faiss.

    Raises:
        MissingPackageError: it is not installed; one line that says how to.
    """
    try:
        import faiss
    except ImportError as error:
        raise MissingPackageError(f"Nearest neighbours need faiss: {_INSTALL}.") from error
    module: ModuleType = faiss
    return module


def _installed(name: str) -> bool:
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True
