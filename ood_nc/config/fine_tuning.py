"""The section of an evaluation that fine-tunes a part of the backbone as a probe."""

from __future__ import annotations

from ood_nc.config.values import Names, Section, Text, flag


class FineTuningConfig(Section):
    """Which part of the backbone learns each transfer task, and how; nothing where no part is named."""

    part: Names = flag([], "modules or weights of the backbone that learn: names and globs, e.g. layer4")
    passes: int = flag(10, "epochs over the train part of the task", ge=1, le=2**16)
    optimizer: Text = flag("adamw", "timm optimiser")
    learning_rate: float = flag(1e-3, "at the start; it falls to 0 by a cosine", gt=0, le=1e3)

    @property
    def method(self) -> str:
        """What its rows are called."""
        epochs = "epoch" if self.passes == 1 else "epochs"
        return f"fine-tuning ({', '.join(self.part)}; {self.passes} {epochs}, {self.optimizer} {self.learning_rate:g})"
