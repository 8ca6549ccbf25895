"""Random damage to every kind of file that images come in: does any end otherwise than in one line?

    python scripts/attacks/data_files.py [--mutations 3000] [--seed 0] [--kinds zip npz ...]

Each damaged file is opened, fingerprinted and scanned; images are also scored as one file. Right is: it opens, an image
of it is refused with the reason, or a `UserError` of one line. Exits with 1 where something else happens, takes more
than a minute, or more than 4 GB of memory.
"""

from __future__ import annotations

import argparse
import gzip
import io
import random
import resource
import sys
import tarfile
import tempfile
import time
import traceback
import warnings
import zipfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ood_nc.data import ImageStream, open_dataset, scan
from ood_nc.errors import UserError

PIXELS = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
IMAGES = {"png": "RGBA", "jpg": "RGB", "tif": "F", "gif": "P", "webp": "RGB", "bmp": "RGB", "ico": "RGBA", "tga": "RGB"}
IMAGES |= {"pcx": "RGB", "jp2": "RGB", "ppm": "RGB", "dds": "RGBA", "sgi": "RGB", "im": "RGB"}
MEMORY, SECONDS = 4 << 30, 60.0


def picture(suffix: str, mode: str) -> bytes:
    content = io.BytesIO()
    Image.fromarray(PIXELS).convert(mode).save(content, Image.registered_extensions()[f".{suffix}"])
    return content.getvalue()


def tar(kind: int) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w", format=kind) as file:
        for name in ("a/1.png", "b/2.png", f"b/{'é' * 80}.png"):
            info, image = tarfile.TarInfo(name), picture("png", "RGB")
            info.size = len(image)
            file.addfile(info, io.BytesIO(image))
    return content.getvalue()


def sound_files() -> dict[str, bytes]:
    """One undamaged file of each kind, by its ending."""
    Image.init()
    packed, arrays, array = io.BytesIO(), io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as file:
        for name in ("a/1.png", "b/2.png"):
            file.writestr(name, picture("png", "RGB"))
    np.savez_compressed(arrays, x=PIXELS[None], y=np.zeros(1, np.int64))
    np.save(array, PIXELS[None])
    found = {"zip": packed.getvalue(), "npz": arrays.getvalue(), "npy": array.getvalue()}
    found |= {"gnu.tar": tar(tarfile.GNU_FORMAT), "pax.tar": tar(tarfile.PAX_FORMAT)}
    found |= {"tar.gz": gzip.compress(found["gnu.tar"]), "txt": b"a/1.png 0\nb c.png\t1\n" * 5}
    return found | {suffix: picture(suffix, mode) for suffix, mode in IMAGES.items()}


def damaged(content: bytes, rng: random.Random) -> bytes:
    """Bytes changed, set to extremes, cut off or put in."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 5, 20))):
        place, kind = rng.randrange(len(data) + 1), rng.random()
        if kind < 0.6:
            data[place : place + 1] = bytes([rng.choice((0, 127, 128, 255, rng.randrange(256)))])
        elif kind < 0.8:
            width = rng.choice((2, 4, 8))
            data[place : place + width] = bytes(rng.choice((0, 255)) for _ in range(width))
        elif kind < 0.9:
            del data[place:]
        else:
            data[place:place] = rng.randbytes(rng.randrange(30))
    return bytes(data)


def attack(folder: Path, kind: str, content: bytes) -> str | None:
    """What went wrong with a damaged file; None where all is as it should be."""
    path = folder / f"x.{kind}"
    path.write_bytes(content)
    start = time.perf_counter()
    try:
        if kind in IMAGES:
            list(ImageStream([str(path)], lambda image: torch.zeros(1)))
        dataset = open_dataset(str(folder if kind in IMAGES else path))
        dataset.fingerprint()
        scan(dataset)
    except UserError as error:
        if "\n" in str(error):
            return f"several lines: {str(error)!r}"
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__}: {error} ({Path(frame.filename).name}:{frame.lineno})"
    seconds = time.perf_counter() - start
    return f"it took {seconds:.0f} seconds" if seconds > SECONDS else None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutations", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="+")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    failures = 0
    for kind, content in sound_files().items():
        if arguments.kinds and kind not in arguments.kinds:
            continue
        rng = random.Random(f"{arguments.seed} {kind}")
        with tempfile.TemporaryDirectory() as folder:
            for number in range(arguments.mutations):
                fault = attack(Path(folder), kind, damaged(content, rng))
                if fault is not None:
                    failures += 1
                    print(f"{kind}, mutation {number}: {fault}", flush=True)
        print(f"{kind}: {arguments.mutations} mutations", flush=True)
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
