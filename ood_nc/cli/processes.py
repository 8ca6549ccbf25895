"""Several commands, so many at a time, each in a process of its own."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Mapping, Sequence

from ood_nc.cli.show import say
from ood_nc.errors import UserError


def work(pending: Mapping[str, Sequence[str]], jobs: int, *, of: int, kept: str) -> None:
    """Run the commands.

    Args:
        pending: their words, by a name that is said when the command begins.
        jobs: processes at a time; where there are several GPUs each has its own.
        of: how many there are with those that are finished.
        kept: where what is finished is kept and how to go on, said after an interruption or a failure.

    Raises:
        UserError: some of them failed.
        KeyboardInterrupt: Ctrl-C or SIGTERM, after every process has stopped.
    """
    from ood_nc.stopping import termination_interrupts

    waiting, running, failed = list(pending), dict[int, tuple[str, subprocess.Popen[bytes]]](), list[str]()
    with termination_interrupts():
        try:
            while waiting or running:
                for slot in sorted(set(range(jobs)) - running.keys())[: len(waiting)]:
                    name = waiting.pop(0)
                    say(name)
                    # In a session of its own, so that Ctrl-C reaches it once, through us.
                    process = subprocess.Popen(pending[name], env=_environment(slot, jobs), start_new_session=True)
                    running[slot] = name, process
                time.sleep(0.1)
                for slot, (name, process) in list(running.items()):
                    if process.poll() is not None:
                        del running[slot]
                        failed += [name] if process.returncode else []
        except KeyboardInterrupt:
            raise KeyboardInterrupt(kept) from None
        finally:
            for _, process in running.values():
                process.terminate()
            for _, process in running.values():
                process.wait()
    if failed:
        raise UserError(f"{len(failed)} of {of} runs failed ({', '.join(failed)}). {kept}")


def _environment(slot: int, jobs: int) -> dict[str, str]:
    """For several processes at a time each has a share of the cores, and a GPU."""
    if jobs == 1:
        return dict(os.environ)
    import torch

    gpus = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(torch.cuda.device_count())))).split(",")
    share = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // jobs))}
    return {**share, **os.environ, **({"CUDA_VISIBLE_DEVICES": gpus[slot % len(gpus)]} if len(gpus) > 1 else {})}
