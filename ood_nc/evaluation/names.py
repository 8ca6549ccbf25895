"""What an evaluation is asked for by name and number, checked before anything is computed."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral

from ood_nc.detection import list_detectors
from ood_nc.errors import UserError, nearest
from ood_nc.evaluation.maps import check_map
from ood_nc.evaluation.results import FULL_SPECTRUM, PAPER, STRICT
from ood_nc.scores import ScoreEnsemble
from ood_nc.transfer import PROBES

PROTOCOLS = (STRICT, PAPER, FULL_SPECTRUM)


def check_names(
    detectors: Sequence[str],
    probes: Sequence[str],
    ensembles: Sequence[str] = (),
    protocols: Sequence[str] = (STRICT,),
    feature_map: str = "pca",
) -> list[str]:
    """Refuse what there is not, before anything is computed.

    Args:
        detectors: names and globs; the others are names.
        probes: of transfer.
        ensembles: ways of combining scores.
        protocols: of the evaluation.
        feature_map: how features are placed in a plane.

    Returns:
        The names of the detectors.

    Raises:
        UserError: naming the first that is unknown, and the nearest that is there.
        MissingPackageError: a map needs a package that is not installed.
    """
    check_map(feature_map)
    lists = {"detectors": detectors, "probes": probes, "ensembles": ensembles, "protocols": protocols}
    for what, given in lists.items():
        if isinstance(given, str):
            raise UserError(f"{what} is the one name {given!r}: give a list of names, [{given!r}].")
    for protocol in protocols:
        if protocol not in PROTOCOLS:
            raise UserError(f"Unknown protocol {protocol!r}: use {', '.join(PROTOCOLS)}.{nearest(protocol, PROTOCOLS)}")
    if FULL_SPECTRUM in protocols and STRICT not in protocols:
        raise UserError(f"Protocol {FULL_SPECTRUM} takes the scores of {STRICT}: name it beside {STRICT}.")
    for probe in probes:
        PROBES[probe]
    for ensemble in ensembles:
        ScoreEnsemble(ensemble)  # type: ignore[arg-type]
    names: list[str] = []
    for pattern in detectors:
        # Input detectors go over every image again, some of them many times: only a name in full asks for one.
        matching = list_detectors(pattern, kind="feature") or list_detectors(pattern)
        if not matching:
            raise UserError(
                f"No detector matches {pattern!r}.{nearest(pattern, list_detectors())} See `ood-nc list detectors`."
            )
        names += [name for name in matching if name not in names]
    return names


def check_numbers(**given: tuple[int, int]) -> None:
    """Refuse numbers that could not be, before anything is computed.

    Args:
        **given: what was given, and the least that it can be.

    Raises:
        UserError: naming the first.
    """
    for name, (value, least) in given.items():
        if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
            raise UserError(f"{name} is {value!r}: give a whole number from {least} up.")
