"""A model that this project did not train, with its classes and its preprocessing as the weights have them."""

from __future__ import annotations

from pydantic import ValidationError

from ood_nc.config import ModelConfig
from ood_nc.models.backbone import default_num_classes
from ood_nc.models.checkpoints import classes_in, load_initial
from ood_nc.models.controlled import IMAGE_SETTINGS, ControlledModel, build_model
from ood_nc.models.weight_files import WeightFile, read_weights

_SIZES = ("input_size", "img_size")


def load_foreign(config: ModelConfig) -> tuple[ControlledModel, list[str]]:
    """Return the model of a configuration with its weights, and what the reader should know of them.

    The number of classes is the configuration's, else that of the head in the file, else timm's for the name. Images
    are preprocessed as timm's validation script would: at the size and crop for tests; where the file holds the
    arguments of timm's training script, as these say. What the configuration sets goes before both.

    Raises:
        UserError: the model cannot be built, or the weights do not fit.

    Example:
        >>> model, notes = load_foreign(ModelConfig(name="test_resnet", num_classes=3))
        >>> notes[0]
        'test_resnet has random weights: give --checkpoint FILE or --pretrained.'
    """
    file = None if config.checkpoint is None else read_weights(config.checkpoint)
    settings, taken = (config, ()) if file is None else _with_arguments(config, file)
    classes = None if file is None or config.by_order else classes_in(file, config.name)
    model = build_model(settings, config.num_classes or classes or default_num_classes(config.name), test_size=True)
    report = load_initial(model, config)
    if report is not None:
        notes = [str(report)]
    else:
        random = f"{config.name} has random weights: give --checkpoint FILE or --pretrained."
        notes = [] if config.pretrained else [random]
    return model, [*notes, _images(model, config, taken)]


def _with_arguments(config: ModelConfig, file: WeightFile) -> tuple[ModelConfig, tuple[str, ...]]:
    """The configuration with what it leaves open taken from the arguments in the file."""
    own = config.model_dump()
    sized = any(own[key] is not None for key in _SIZES)
    keys = [key for key in (*IMAGE_SETTINGS, *(() if sized else _SIZES)) if own[key] is None]
    found = {key: file.settings[key] for key in keys if file.settings.get(key) is not None}
    try:
        return ModelConfig.model_validate({**own, **found}), tuple(found)
    except ValidationError:  # arguments of another program
        return config, ()


def _images(model: ControlledModel, config: ModelConfig, taken: tuple[str, ...]) -> str:
    shown = model.preprocessing
    sizes = "x".join(str(side) for side in shown["input_size"])
    what = f"{sizes}, {shown['interpolation']}, crop {shown['crop_pct']:g} ({shown['crop_mode']})"
    values = "; ".join(f"{key} {', '.join(f'{value:g}' for value in shown[key])}" for key in ("mean", "std"))
    set_here = [key for key in (*_SIZES, *IMAGE_SETTINGS) if getattr(config, key) is not None]
    sources = [f"as timm's validation script for {config.name}"]
    sources += [f"from the file's arguments: {', '.join(taken)}"] if taken else []
    sources += [f"as set: {', '.join(set_here)}"] if set_here else []
    return f"images: {what}; {values} ({'; '.join(sources)})"
