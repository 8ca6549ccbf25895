"""Detectors of both kinds by name: ours (every file of ``detectors/``) and those of other packages.

Another package adds its own through an entry point of the group ``ood_nc.detectors``, name to class::

    [project.entry-points."ood_nc.detectors"]
    my_detector = "my_package.detectors:MyDetector"
"""

from __future__ import annotations

from typing import Any, TypeVar

from ood_nc.detection.base import BaseDetector
from ood_nc.detection.feature_base import FeatureDetector
from ood_nc.errors import UserError, nearest
from ood_nc.registry import Registry

DetectorType = TypeVar("DetectorType", bound=type[BaseDetector])
KINDS = ("feature", "input")


def _fault(cls: object) -> str | None:
    if not (isinstance(cls, type) and issubclass(cls, BaseDetector)):
        return "is no subclass of FeatureDetector or InputDetector"
    for attribute in ("name", "info", "requires"):
        if not hasattr(cls, attribute):
            return f"has no class attribute {attribute!r}"
    unknown = cls.requires - cls.inputs
    return f"requires unknown inputs: {', '.join(sorted(unknown))}" if unknown else None


DETECTORS: Registry[type[BaseDetector]] = Registry(
    "detector", "ood_nc.detectors", fault=_fault, package="ood_nc.detection.detectors"
)


def register_detector(cls: DetectorType) -> DetectorType:
    """Class decorator: make the detector known under ``cls.name``.

    Raises:
        UserError: the name is taken by another class, or the class lacks ``name``, ``info`` or valid ``requires``.

    Example:
        >>> from ood_nc.detection import BaseDetector, DetectorInfo, FeatureDetector
        >>> @register_detector
        ... class FeatureNorm(FeatureDetector):
        ...     name = "feature_norm"
        ...     info = DetectorInfo("Feature norm", "nowhere", "https://example.org", "features", "[0, inf)", "O(B d)")
        ...     requires = frozenset({"features"})
        ...     needs_fit = False
        ...
        ...     def _score(self, queries):
        ...         return queries.features.double().norm(dim=1)
        >>> create_detector("feature_norm").score([[3.0, 4.0]])
        tensor([5.], dtype=torch.float64)
        >>> del DETECTORS._entries["feature_norm"]  # here, so that it is gone again
    """
    DETECTORS.add(getattr(cls, "name", cls.__name__), cls)
    return cls


def list_detectors(pattern: str = "*", kind: str | None = None) -> list[str]:
    """Names of all detectors that match a glob, sorted.

    Args:
        pattern: glob.
        kind: "feature" (read cached features and logits), "input" (read images, through the network), or None for
            both.

    Raises:
        UserError: unknown kind, or a plug-in that is no detector.

    Example:
        >>> list_detectors("*mahalanobis", kind="feature")
        ['mahalanobis', 'relative_mahalanobis']
    """
    if kind not in (None, *KINDS):
        raise UserError(f"Unknown kind of detector {kind!r}: use feature or input.{nearest(str(kind), KINDS)}")
    names = DETECTORS.names(pattern)
    return [name for name in names if kind is None or detector_class(name).kind == kind]


def detector_class(name: str) -> type[BaseDetector]:
    """The class registered under ``name``: a ``FeatureDetector`` or an ``InputDetector``, as its ``kind`` says.

    Raises:
        UserError: unknown name, or a plug-in that is no detector.

    Example:
        >>> detector_class("vim").info.venue, sorted(detector_class("vim").requires)
        ('CVPR 2022', ['features', 'head', 'logits'])
    """
    return DETECTORS[name]


def create_detector(name: str, /, **hyperparameters: Any) -> BaseDetector:
    """An unfitted detector by name.

    Args:
        name: as in :func:`list_detectors`.
        **hyperparameters: of that detector; the others keep their defaults.

    Raises:
        UserError: unknown name or hyper-parameter, or a value out of range.

    Example:
        >>> create_detector("energy", temperature=2.0).score(None, logits=[[0.0, 0.0], [6.0, 0.0]])
        tensor([1.3863, 6.0972], dtype=torch.float64)
    """
    return detector_class(name)().set_params(**hyperparameters)


def create_feature_detector(name: str, /, **hyperparameters: Any) -> FeatureDetector:
    """An unfitted detector that reads features, by name.

    Raises:
        UserError: as :func:`create_detector`, or the detector reads images.

    Example:
        >>> create_feature_detector("knn", k=1).fit([[1.0, 0.0], [0.0, 2.0]]).score([[0.0, 5.0]])
        tensor([-0.], dtype=torch.float64)
    """
    detector = create_detector(name, **hyperparameters)
    if not isinstance(detector, FeatureDetector):
        raise UserError(f"Detector {name!r} reads images through the network, not features.")
    return detector
