from __future__ import annotations

import numpy as np
import pytest

from ood_nc.evaluation import Results
from ood_nc.evaluation.gallery import NEAREST, SHOWN
from ood_nc.models import ControlledModel
from tests.helpers.tiny import arguments, column, features_of


def test_the_surest_images_their_neighbours_and_percentiles(evaluated: Results, model: ControlledModel) -> None:
    found, given = evaluated.series["gallery"], arguments()
    tap, detector = found["tap"], found["detector"]
    assert (tap, detector) == ("projector", "knn")
    kinds = [(row["dataset"], row["kind"]) for row in found["rows"]]
    assert kinds == [
        ("id_test", "rejected"),
        *((name, kind) for name in given["ood"] for kind in ("accepted", "rejected")),
    ]
    train = features_of(model, given["id_train"], tap).numpy()
    train /= np.linalg.norm(train, axis=1, keepdims=True)
    for row in found["rows"]:
        dataset = given["id"] if row["dataset"] == "id_test" else given["ood"][row["dataset"]]
        group = "id" if row["dataset"] == "id_test" else evaluated.identity["datasets"][row["dataset"]]["group"]
        scores = column(evaluated, group, row["dataset"], f"score/{tap}/{detector}")
        shown = [dataset.ids.index(one["id"]) for one in row["images"]]
        assert len(shown) == SHOWN
        rest = np.delete(scores, shown)
        assert scores[shown].min() >= rest.max() if row["kind"] == "accepted" else scores[shown].max() <= rest.min()
        queries = features_of(model, dataset, tap).numpy()[shown]
        queries /= np.linalg.norm(queries, axis=1, keepdims=True)
        for image, query, score in zip(row["images"], queries, scores[shown], strict=True):
            cosines = train @ query
            near = [given["id_train"].ids.index(name) for name, _ in image["near"]]
            assert cosines[near] == pytest.approx(np.sort(cosines)[::-1][:NEAREST], abs=1e-5)
            assert [label for _, label in image["near"]] == [str(given["id_train"].targets[place]) for place in near]
            ids = column(evaluated, "id", "id_test", f"score/{tap}/{detector}")
            assert image["percentiles"][tap] == pytest.approx(100 * np.mean(ids < score))
            assert set(image["percentiles"]) == {"layer2", "encoder", "projector"}
            assert found["thumbnails"][row["dataset"]][image["id"]].startswith("data:image/jpeg;base64,")
            assert all(name in found["thumbnails"]["id_train"] for name, _ in image["near"])
