"""``ood-nc explain``: one page on a detector's decision for one image."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ood_nc.cli.command import Command
from ood_nc.cli.pixels import add_pixel_arguments, judged_pixels
from ood_nc.cli.show import say
from ood_nc.errors import UserError

if TYPE_CHECKING:
    from ood_nc.data import ImageDataset
    from ood_nc.deployment import Detector


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", type=Path, help="a detector that ood-nc fit wrote")
    parser.add_argument("image", metavar="IMAGE", type=Path, help="the image")
    parser.add_argument(
        "--train", metavar="RUN|SOURCE", help="the training images, to show what is near [those FILE names, if there]"
    )
    parser.add_argument("-o", "--output", metavar="PAGE", type=Path, help="the page [IMAGE's name, .html, here]")
    parser.add_argument("--backbone", metavar="RUN", type=Path, help="the network, where FILE holds none")
    parser.add_argument("-b", "--batch-size", type=int, default=128, help="images a forward pass [128]")
    parser.add_argument("-j", "--workers", type=int, default=0, help="processes that load images [0]")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps [auto]")
    add_pixel_arguments(parser)


def _execute(arguments: argparse.Namespace) -> int:
    if arguments.batch_size < 1 or arguments.workers < 0:
        raise UserError("--batch-size must be at least 1 and --workers at least 0.")
    page = arguments.output or Path(f"{arguments.image.stem}.html")
    if page.suffix.lower() not in (".html", ".htm"):  # an image or the detector would be gone
        raise UserError(f"The page {page} must end in .html.")
    from ood_nc.deployment import Detector
    from ood_nc.deployment.explanation import explain
    from ood_nc.devices import choose_device
    from ood_nc.report.explanation import write_explanation

    detector = Detector.load(arguments.file, backbone=arguments.backbone).to(choose_device(arguments.device))
    train, cache = _training_images(arguments.train, detector)
    document = explain(
        detector,
        arguments.image,
        train,
        pixels=judged_pixels(arguments, detector.transform.pixels),
        batch_size=arguments.batch_size,
        workers=arguments.workers,
        cache=cache,
    )
    write_explanation(document, page)
    far = min(document["taps"], key=lambda tap: tap["percentile"])
    say(
        f"{'accepted' if document['accepted'] else 'rejected'}: score {document['score']:.6g} against "
        f"{document['threshold']:.6g}, p-value {document['p_value']:.4g}, class {document['prediction']}"
    )
    say(f"least typical at {far['name']}: nearer to its neighbours than {far['percentile']:.0f} % of training images")
    say(f"page: {page}")
    return 0


def _training_images(given: str | None, detector: Detector) -> tuple[ImageDataset, Path | None]:
    """The training images, and the folder of feature banks where a run has one."""
    from ood_nc.config import load
    from ood_nc.data import load_data, open_dataset

    if given is not None and (Path(given) / "config.yaml").is_file():
        config = load(Path(given) / "config.yaml")
        return load_data(config.data, seed=config.train.seed, check_images=False).id_train, Path(given) / "features"
    source = given or str((detector.about.get("fitted_on") or {}).get("source"))
    try:
        return open_dataset(source), None
    except UserError as error:
        if given is not None:
            raise
        raise UserError(f"Where are the training images? Give --train RUN or --train SOURCE ({error})") from None


COMMAND = Command(
    name="explain",
    summary="One page on a detector's decision for one image: p-value, how typical it is at every tap, what is near.",
    examples="""  ood-nc explain knn.safetensors incoming/0017.jpg --train runs/trial -o 0017.html
  ood-nc explain flowers.safetensors rose.jpg --train /data/flowers
  ood-nc explain knn.safetensors scan.png --value-range 0,4095""",
    add_arguments=_add_arguments,
    execute=_execute,
)
