"""The options of commands that judge images: how these are stored, where otherwise than the training images."""

from __future__ import annotations

import argparse

from ood_nc.config import PixelConfig, load


def add_pixel_arguments(parser: argparse.ArgumentParser) -> None:
    """Add a flag for each rule."""
    pixels = parser.add_argument_group("pixels", "how images are stored, where otherwise than those of the training")
    pixels.add_argument("--value-range", metavar="LOW,HIGH", help="values that are black and white, e.g. 0,4095")
    pixels.add_argument("--background", help="beneath transparent pixels: white, black, ignore")
    pixels.add_argument("--max-pixels", metavar="N", type=int, help="largest image that is decoded")
    pixels.add_argument(
        "--orientation", action=argparse.BooleanOptionalAction, default=None, help="turn as the EXIF data says"
    )


def judged_pixels(arguments: argparse.Namespace, stored: PixelConfig) -> PixelConfig:
    """The rules that the detector was fitted with, but for what is said otherwise.

    Raises:
        UserError: a value that a rule cannot have.
    """
    names = ("value_range", "background", "max_pixels", "orientation")
    given = {name: value for name in names if (value := getattr(arguments, name)) is not None}
    if "value_range" in given:
        given["value_range"] = given["value_range"].split(",")
    rules = {f"data.pixels.{name}": value for name, value in {**stored.model_dump(), **given}.items()}
    return load(None, rules).data.pixels
