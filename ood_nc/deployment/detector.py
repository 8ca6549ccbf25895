"""The deployable detector: backbone, fitted scores, calibration and preprocessing, from image to verdict."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ood_nc.arrays import without_autocast
from ood_nc.data import eval_transform
from ood_nc.deployment import file
from ood_nc.deployment.blocks import in_blocks
from ood_nc.deployment.images import Errors, ImageLike, as_batch
from ood_nc.deployment.members import Calibration, Member
from ood_nc.detection import InputDetector, Network, TapQueries
from ood_nc.errors import MissingPackageError
from ood_nc.models import ControlledModel
from ood_nc.notebook import data_frame, html_table, short
from ood_nc.passes import evaluating
from ood_nc.scores import ScoreEnsemble

Score = Callable[[torch.Tensor], torch.Tensor]
_SHOWN = 20
"""The most images of a verdict that a notebook shows."""


@dataclass(frozen=True, repr=False)
class Verdict:
    """What a detector says of a batch of B images.

    Attributes:
        scores: (B,) float64, larger = more in-distribution.
        p_values: (B,) conformal p-values in (0, 1]: of fresh ID images at most a share t has a p-value up to t.
        accepted: (B,) bool, True = in-distribution.
        predictions: (B,) index of the predicted class.
        class_names: names of the classes, or None.
        errors: of each image why it could not be read, or None. Where there is a reason, score and p-value are NaN,
            the image is not accepted, and its prediction is -1, without a name.

    Example:
        >>> import torch
        >>> from ood_nc.data import eval_transform, open_dataset
        >>> from ood_nc.deployment import fit_detector
        >>> from ood_nc.models import ControlledModel
        >>> model = ControlledModel("test_vit", 10, img_size=32).eval()
        >>> prepare = eval_transform(model.preprocessing)
        >>> images = open_dataset("bundled/digits-id::test").with_transform(prepare)
        >>> train = open_dataset("bundled/digits-id::train").with_transform(prepare)
        >>> detector = fit_detector(model, train, images, detectors=["mahalanobis"])
        >>> verdict = detector(torch.zeros(2, 3, 32, 32))
        >>> verdict
        Verdict(2 images: ... accepted, ... rejected)
        >>> (verdict.p_values > 0).all(), verdict.predictions.shape
        (tensor(True), torch.Size([2]))
    """

    scores: torch.Tensor
    p_values: torch.Tensor
    accepted: torch.Tensor
    predictions: torch.Tensor
    class_names: tuple[str, ...] | None = None
    errors: tuple[str | None, ...] = ()

    def __len__(self) -> int:
        return len(self.scores)

    def to_pandas(self) -> Any:
        """A row an image: score, p_value, accepted, predicted class and error, as a ``pandas.DataFrame``.

        Raises:
            MissingPackageError: pandas is not installed.
        """
        return data_frame(self._columns())

    def __repr__(self) -> str:
        accepted, broken = int(self.accepted.sum()), sum(error is not None for error in self.errors)
        unread = f", {broken} unreadable" if broken else ""
        return f"Verdict({len(self)} images: {accepted} accepted, {len(self) - accepted - broken} rejected{unread})"

    def _repr_html_(self) -> str:
        columns = self._columns()
        numbers = ([short(value) for value in columns[name]] for name in ("score", "p_value"))
        decided = ["yes" if one else "no" for one in columns["accepted"]]
        rows = list(zip(*numbers, decided, columns["predicted"], columns["error"], strict=True))[:_SHOWN]
        more = f", the first {_SHOWN}" if len(self) > _SHOWN else ""
        return html_table(list(columns), rows, caption=repr(self) + more)

    def _columns(self) -> dict[str, list[Any]]:
        found = {"score": self.scores, "p_value": self.p_values, "accepted": self.accepted}
        columns = {name: values.tolist() for name, values in found.items()}
        return columns | {"predicted": self.predicted_names, "error": list(self.errors or [None] * len(self))}

    @property
    def predicted_names(self) -> list[str]:
        """The predicted class of each image by name, or by index where the classes have no names."""
        names = self.class_names
        return [
            "" if index < 0 else str(index) if names is None else names[index] for index in self.predictions.tolist()
        ]


class Detector:
    """Judges images: ``Detector.load(path)(images)``.

    Made by `fit_detector`, or from a file. An image is accepted where its score reaches the threshold that accepts a
    fresh ID image with probability ``calibration.tpr``; ``p_values`` say the same by degrees.

    Args:
        model: the network.
        members: the fitted scores; several need an ensemble.
        ensemble: combines them, or None for one.
        calibration: scores of held-out ID images.
        about: what it was fitted on and with, for the reader: plain values.

    Example:
        >>> import torch
        >>> from ood_nc.data import eval_transform, open_dataset
        >>> from ood_nc.deployment import Detector, fit_detector
        >>> from ood_nc.models import ControlledModel
        >>> model = ControlledModel("test_vit", 10, img_size=32).eval()
        >>> prepare = eval_transform(model.preprocessing)
        >>> images = open_dataset("bundled/digits-id::test").with_transform(prepare)
        >>> train = open_dataset("bundled/digits-id::train").with_transform(prepare)
        >>> detector = fit_detector(model, train, images, detectors=["mahalanobis"])
        >>> import tempfile
        >>> from pathlib import Path
        >>> path = Path(tempfile.mkdtemp(), "digits.safetensors")
        >>> detector.save(path)
        >>> verdict = Detector.load(path)(torch.zeros(2, 3, 32, 32))
        >>> verdict.accepted.shape, verdict.scores.dtype
        (torch.Size([2]), torch.float64)
    """

    def __init__(
        self,
        model: ControlledModel,
        members: Sequence[Member],
        ensemble: ScoreEnsemble | None,
        calibration: Calibration,
        about: dict[str, Any] | None = None,
    ) -> None:
        self.model = model
        self.members = tuple(members)
        self.ensemble = ensemble
        self.calibration = calibration
        self.about = dict(about or {})
        self.threshold = calibration.threshold()
        self.class_thresholds = calibration.class_thresholds()
        self.device = next((value.device for value in model.state_dict().values()), torch.device("cpu"))
        self.transform = eval_transform(model.preprocessing)
        network = None
        for member in self.members:
            if isinstance(member.detector, InputDetector):
                network = network or Network(model)
                member.detector.attach(network)

    @classmethod
    def load(cls, path: str | Path, *, backbone: ControlledModel | str | Path | None = None) -> Detector:
        """Read a detector from its file; nothing in it is code, and it has judged a blank image before it is given.

        Args:
            path: written by `save`.
            backbone: the network, or a file with its weights, where the detector's file holds none (or to share one
                that is loaded already).

        Raises:
            UserError: no such file, damaged, of a later format, without a backbone, or one whose weights are not those
                the detector was fitted on.
        """
        with torch.inference_mode(False):  # tensors that are made inside have no gradient later, which some scores take
            model, members, ensemble, calibration, about = file.read(Path(path), backbone)
            try:
                detector = cls(model, members, ensemble, calibration, about)
                detector(torch.zeros(1, *model.preprocessing["input_size"]))
            except MissingPackageError:
                raise
            except Exception as error:  # parts that do not fit each other fail anywhere
                raise file.unusable(Path(path), error) from error
        return detector

    def to_pandas(self) -> Any:
        """A row a fitted score: its detector, tap and hyper-parameters, as a ``pandas.DataFrame``.

        Raises:
            MissingPackageError: pandas is not installed.
        """
        return data_frame(self._columns())

    def __repr__(self) -> str:
        names, threshold = ", ".join(member.name for member in self.members), self.threshold
        rule = f"a score >= {threshold.value:.6g}" if self.calibration.classes is None else "by predicted class"
        return f"Detector({names}; accepts {rule}, TPR {threshold.tpr:.4g}, {threshold.samples} held-out ID images)"

    def _repr_html_(self) -> str:
        columns = self._columns()
        return html_table(list(columns), list(zip(*columns.values(), strict=True)), caption=repr(self))

    def _columns(self) -> dict[str, list[str]]:
        return {
            "detector": [member.detector.name for member in self.members],
            "tap": [member.tap for member in self.members],
            "parameters": [
                ", ".join(f"{name}={value!r}" for name, value in member.detector.get_params().items())
                for member in self.members
            ],
        }

    def save(self, path: str | Path, *, backbone: bool = True) -> None:
        """Write one file, atomically.

        Args:
            path: usually ``NAME.safetensors``.
            backbone: with the network's weights, so that the file needs nothing else.

        Raises:
            UserError: the disk is full, or the folder cannot be written.
        """
        file.write(Path(path), self.model, self.members, self.ensemble, self.calibration, self.about, backbone)

    def to(self, device: str | torch.device) -> Detector:
        """Move to a device."""
        self.device = torch.device(device)
        self.model.to(self.device)
        return self

    def __call__(self, images: ImageLike | Iterable[ImageLike], *, errors: Errors = "raise") -> Verdict:
        """Judge images, each independently of the others.

        Args:
            images: a path, the bytes of a file, a PIL image, pixels as an array (H, W), (H, W, C) or (C, H, W) or as a
                tensor of integers (C, H, W), or a list of these (also stacked); or a tensor of floats (B, C, H, W) or
                (C, H, W) that is preprocessed already (``self.transform``).
            errors: an image that cannot be read is an error (``raise``), or a ``row`` with the reason.

        Raises:
            UserError: an image cannot be read, or is of another kind.
        """
        batch, reasons = as_batch(images, self.transform, self.model.preprocessing["input_size"], errors)
        readable = torch.tensor([reason is None for reason in reasons])
        scores = torch.full((len(reasons),), float("nan"), dtype=torch.float64)
        p_values, accepted = scores.clone(), torch.zeros(len(reasons), dtype=torch.bool)
        predictions = torch.full((len(reasons),), -1)
        if batch is not None:
            members, classes = self.member_scores(batch)
            combined = self.combine(members)
            scores[readable], predictions[readable] = combined, classes
            p_values[readable] = self.calibration.p_values(combined, classes)
            accepted[readable] = self._accept(combined, classes)
        return Verdict(scores, p_values, accepted, predictions, self.model.class_names, tuple(reasons))

    @without_autocast()  # as it was calibrated
    def member_scores(self, batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The score of every member (B, m) and the predicted classes (B,), on the CPU."""
        batch = batch.to(self.device)
        read = dict.fromkeys(m.tap for m in self.members if not isinstance(m.detector, InputDetector))
        with torch.inference_mode(), evaluating(self.model):
            logits, *values = in_blocks(lambda block: self._forward(block, list(read)), batch)
        taps = {tap: features.float() for tap, features in zip(read, values, strict=True)}
        scores = self.scores_of(taps, logits.float(), lambda score: in_blocks(lambda block: (score(block),), batch)[0])
        return scores, logits.argmax(dim=1).cpu()

    def scores_of(
        self, taps: Mapping[str, torch.Tensor], logits: torch.Tensor, on_images: Callable[[Score], torch.Tensor]
    ) -> torch.Tensor:
        """The score of every member (B, m), on the CPU.

        Args:
            taps: features (B, d) of the taps that members read.
            logits: (B, C).
            on_images: applies the score of an input detector to the images.
        """
        queries: dict[str, TapQueries] = {}
        columns = []
        for tap, detector in ((member.tap, member.detector) for member in self.members):
            if isinstance(detector, InputDetector):
                columns.append(on_images(detector.score).cpu())
                continue
            if tap not in queries:
                own = logits if tap == self.model.head_tap and self.uses_head else None
                queries[tap] = TapQueries(taps[tap], logits=own)
            columns.append(detector.score(queries[tap]).cpu())
        return torch.stack(columns, dim=1)

    def _forward(self, block: torch.Tensor, read: Sequence[str]) -> tuple[torch.Tensor, ...]:
        logits, taps = self.model.forward_taps(block)
        return logits, *(taps[tap] for tap in read)

    @property
    def uses_head(self) -> bool:
        """Whether the model's own logits count at the tap the head reads (else an ID probe's do)."""
        return bool(self.about.get("head_fits", True))

    def combine(self, scores: torch.Tensor) -> torch.Tensor:
        """One score (B,) from those of the members (B, m)."""
        return scores[:, 0] if self.ensemble is None else self.ensemble.score(scores)

    def limit(self, prediction: int) -> float:
        """The score from which on an image of this predicted class is accepted; -inf where each one is."""
        if self.calibration.classes is None:
            return self.threshold.value
        # A class without held-out images gives no evidence against any image, as its p-value of 1 says too.
        found = self.class_thresholds.get(prediction)
        return float("-inf") if found is None else found.value

    def _accept(self, scores: torch.Tensor, predictions: torch.Tensor) -> torch.Tensor:
        return scores >= torch.tensor([self.limit(c) for c in predictions.tolist()], dtype=torch.float64)
