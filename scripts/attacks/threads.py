"""One model, one detector, one network, used by many threads at once: does any call get another caller's values?

    python scripts/attacks/threads.py [--threads 8] [--calls 1000]

Exits with 1 where a call differs from the single-threaded one or raises.
"""

from __future__ import annotations

import argparse
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from ood_nc.data import eval_transform, open_dataset
from ood_nc.deployment import fit_detector
from ood_nc.detection import Network, create_detector, list_detectors
from ood_nc.detection.testing.image_problem import make_image_problem
from ood_nc.models import ControlledModel

Call = Callable[[torch.Tensor], Sequence[torch.Tensor]]
SWITCH_INTERVAL = 1e-6


def subjects() -> dict[str, tuple[Call, list[torch.Tensor]]]:
    """What is called, and what with."""
    train, test = (open_dataset(f"bundled/digits-id::{part}") for part in ("train", "test"))
    torch.manual_seed(0)
    model = ControlledModel("cifar_resnet20", 5, taps=("layer*", "encoder", "projector"), img_size=16)
    model.class_names, model.head_is_fresh = tuple("01234"), False
    transform = eval_transform(model.preprocessing)
    images = [torch.stack([transform(test.load(i)) for i in (2 * n, 2 * n + 1)]) for n in range(16)]
    detector = fit_detector(model, train, test, detectors=["mahalanobis", "knn", "react"], taps=["layer2", "encoder"])
    found: dict[str, tuple[Call, list[torch.Tensor]]] = {
        "forward_taps": (lambda batch: list(model.eval().forward_taps(batch)[1].values()), images),
        "Detector": (lambda batch: [detector(batch).scores, detector(batch).predictions], images),
    }
    problem = make_image_problem()
    problem.network.train()  # each pass must find its own way into evaluation mode
    network = Network(problem.network)
    batches = list(zip(problem.images.split(16), problem.labels.split(16), strict=True))
    for name in list_detectors(kind="input"):
        judge = create_detector(name).fit(network, batches)
        found[name] = (lambda batch, judge=judge: [judge.score(batch)], list(problem.queries.split(3)))
    return found


def differing(call: Call, inputs: list[torch.Tensor], threads: int, calls: int) -> tuple[int, list[str]]:
    """How many of the calls from several threads differ from the single-threaded ones, and what they raised."""
    expected = [[part.detach().clone() for part in call(batch)] for batch in inputs]
    wrong: list[int] = []
    errors: list[str] = []
    start = threading.Barrier(threads)

    def work(thread: int) -> None:
        start.wait()
        for number in range(thread, calls, threads):
            which = number % len(inputs)
            try:
                found = call(inputs[which])
            except Exception as error:
                errors.append(f"{type(error).__name__}: {error}")
                continue
            pairs = zip(found, expected[which], strict=True)
            if not all(torch.allclose(one, other, rtol=1e-5, atol=1e-6) for one, other in pairs):
                wrong.append(number)

    workers = [threading.Thread(target=work, args=(thread,)) for thread in range(threads)]
    with switching(SWITCH_INTERVAL):
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    return len(wrong), errors


@contextmanager
def switching(interval: float) -> Any:
    """Let Python change threads after so many seconds."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(interval)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--calls", type=int, default=1000)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    failed = False
    for name, (call, inputs) in subjects().items():
        wrong, errors = differing(call, inputs, arguments.threads, arguments.calls)
        failed |= bool(wrong or errors)
        print(f"{name}: {wrong} of {arguments.calls} calls differ, {len(errors)} raise {errors[:1] or ''}", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
