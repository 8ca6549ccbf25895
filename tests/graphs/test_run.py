"""Runs on graphs: sources, training, results, and the command."""

from __future__ import annotations

import gzip
import pickle
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse
import torch

from ood_nc.config import load
from ood_nc.errors import UserError
from ood_nc.graphs import SETTINGS, load_graph
from ood_nc.graphs.evaluation import evaluate_graphs
from ood_nc.graphs.sources import BlockSource, FileSource, block_model, open_source
from ood_nc.graphs.training import GraphTrainer, train_graphs
from ood_nc.training import RunDirectory
from tests.helpers.graph_runs import CPU, TINY, tiny


def test_the_recipes_name_the_papers_settings() -> None:
    for name, model in SETTINGS.items():
        config = load(f"configs/graphs/paper-{name[:2]}.yaml", {"graphs.setting": name})
        assert config.graphs is not None and block_model(config.graphs) == model
        assert config.graphs.layers == 34 and config.train.epochs == 8
        assert (config.graphs.node_features, config.optim.lr) == ((8, 0.004) if name[1] == "2" else (16, 0.006))
        trainer = GraphTrainer(config)
        assert [type(trainer.optimizer), trainer.optimizer.param_groups[0]["weight_decay"]] == [torch.optim.SGD, 5e-4]
        assert not trainer.optimizer.param_groups[0]["nesterov"]


def test_an_unknown_setting_is_refused_with_the_nearest() -> None:
    config = load(CPU, {"graphs.setting": "c2-n100"}).graphs
    assert config is not None
    with pytest.raises(UserError, match="Did you mean"):
        block_model(config)


def test_graphs_depend_on_seed_use_and_number_alone() -> None:
    config = load(CPU, TINY).graphs
    assert config is not None
    source, again = BlockSource(config, 0), BlockSource(config, 0)
    again.train(7)
    assert torch.equal(source.train(3).graph.x, again.train(3).graph.x)
    others = [source.train(4), source.test(3), BlockSource(config, 1).train(3)]
    assert not any(torch.equal(source.train(3).graph.x, other.graph.x) for other in others)
    mixed = source.mixed(0)
    assert sorted(mixed.ood) == ["held_out_community", "swapped_block"]
    assert len(torch.cat([mixed.nodes, *mixed.ood.values()]).unique()) == mixed.graph.num_nodes == 60


def test_an_interrupted_run_ends_with_the_weights_of_one_that_was_not(tmp_path: Path) -> None:
    whole = train_graphs(tiny(tmp_path / "whole"))
    train_graphs(tiny(tmp_path / "parts", **{"train.epochs": 1}))
    resumed = train_graphs(tiny(tmp_path / "parts"), resume=True)
    for name, value in whole.network.state_dict().items():
        assert torch.equal(value, resumed.network.state_dict()[name])
    logs = [(tmp_path / part / "tiny" / "metrics.jsonl").read_text() for part in ("whole", "parts")]
    assert logs[0] == logs[1]
    with pytest.raises(UserError, match="already holds a run"):
        train_graphs(tiny(tmp_path / "whole"))
    with pytest.raises(UserError, match=r"graphs\.layers"):
        train_graphs(tiny(tmp_path / "whole", **{"graphs.layers": 4}), resume=True)


def test_a_run_that_goes_on_says_that_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed, it was left as finished: what an earlier, shorter run had written."""
    directory = RunDirectory(tiny(tmp_path).run_directory)
    train_graphs(tiny(tmp_path, **{"train.epochs": 1}))
    assert directory.read_status()["state"] == "finished"
    step, seen = GraphTrainer.train_step, []

    def watched(self: GraphTrainer, number: int) -> float:
        seen.append(directory.read_status())
        return step(self, number)

    monkeypatch.setattr(GraphTrainer, "train_step", watched)
    train_graphs(tiny(tmp_path), resume=True)
    assert {(status["state"], status["epoch"]) for status in seen} == {("running", 1)}
    assert directory.read_status()["state"] == "finished"


def test_rows_of_a_run_say_what_their_oracle_says(tmp_path: Path) -> None:
    trainer = train_graphs(tiny(tmp_path))
    results = evaluate_graphs(trainer)
    values = []
    for number in range(2):
        sample = trainer.source.test(number)
        guessed = trainer.network(sample.graph.x, sample.graph.edge_index).argmax(dim=1)
        right = float((guessed == sample.graph.y).double().mean())
        values.append(2 * max(right, 1 - right) - 1)
    (row,) = results.select(kind="accuracy", metric="overlap", method="head")
    assert row["value"] == pytest.approx(np.mean(values)) and row["n"] == 2
    predicted = results.select(tap="layer002", metric="between_ratio_predicted")[0]["value"]
    low, high = (results.select(tap="layer002", metric=f"between_ratio_{end}")[0]["value"] for end in ("low", "high"))
    assert low <= predicted <= high
    for one in results.series["beliefs"]:
        assert sum(one["counts"]) == 40  # 20 nodes of a community in 2 graphs


@pytest.mark.parametrize(("p", "q"), [(0.7, 0.05), (0.05, 0.7)])
def test_the_spectral_methods_look_at_the_end_where_the_communities_are(tmp_path: Path, p: float, q: float) -> None:
    results = evaluate_graphs(GraphTrainer(tiny(tmp_path, **{"graphs.p": p, "graphs.q": q})))
    found = {row["method"]: row["value"] for row in results.select(metric="overlap") if row["method"] != "head"}
    assert len(found) == 6 and min(found.values()) > 0.9
    labels = np.sign(np.arange(40) - 19.5)
    for spectra in results.series["spectra"].values():
        assert abs(labels @ np.sign(spectra["fiedler"])) > 36


def planetoid(root: Path) -> None:
    """Planetoid's raw files of a graph of 540 nodes, 12 of them for training and 12 for the test, of three classes."""
    generator = np.random.default_rng(0)
    labels, test = np.arange(540) % 3, np.arange(528, 540)
    features = scipy.sparse.csr_matrix(np.eye(3)[labels] + generator.random((540, 3)))
    near = (labels[:, None] == labels) & (generator.random((540, 540)) < 0.05)
    parts = {
        "x": features[:12], "y": np.eye(3)[labels[:12]], "tx": features[test], "ty": np.eye(3)[labels[test]],
        "allx": features[:528], "ally": np.eye(3)[labels[:528]],
        "graph": {node: np.flatnonzero(row).tolist() for node, row in enumerate(near)},
    }  # fmt: skip
    raw = root / "Cora" / "raw"
    raw.mkdir(parents=True)
    for part, value in parts.items():
        (raw / f"ind.cora.{part}").write_bytes(pickle.dumps(value))
    (raw / "ind.cora.test.index").write_text("".join(f"{number}\n" for number in test))


def test_a_run_does_not_go_on_with_another_graph(tmp_path: Path) -> None:
    """It went on with whatever graph lay under the name, and its nodes counted as those of runs on the other."""
    settings = {**TINY, "graphs.dataset": "Cora", "graphs.hidden": 8, "output": str(tmp_path), "experiment": "one"}
    settings |= {"evaluation.detectors": ["energy"], "train.epochs": 1, "graphs.held_out_classes": [1]}
    trainers = {}
    for place in ("here", "moved", "other"):
        planetoid(tmp_path / place)
        if place == "other":
            raw = tmp_path / place / "Cora" / "raw" / "ind.cora.tx"
            raw.write_bytes(pickle.dumps(2 * pickle.loads(raw.read_bytes())))
        trainers[place] = GraphTrainer(load(CPU, {**settings, "data.root": str(tmp_path / place)}))
    identities = {place: evaluate_graphs(trainer).identity for place, trainer in trainers.items()}
    prints = {place: one["datasets"]["id_test"]["fingerprint"] for place, one in identities.items()}
    assert prints["here"] == prints["moved"] != prints["other"]
    train_graphs(trainers["here"].config)
    longer = {**settings, "train.epochs": 2}
    with pytest.raises(UserError, match="The graph has changed since the run was interrupted"):
        train_graphs(load(CPU, {**longer, "data.root": str(tmp_path / "other")}), resume=True)
    assert train_graphs(load(CPU, {**longer, "data.root": str(tmp_path / "moved")}), resume=True).epoch == 2


def test_planetoid_is_read_from_local_files_and_trained_on(tmp_path: Path) -> None:
    data = tmp_path / "data"
    planetoid(data)
    graph = load_graph("Cora", data)
    assert graph.y.tolist() == [number % 3 for number in range(540)] and int(graph.train_mask.sum()) == 12
    overrides = {"output": str(tmp_path), "data.root": str(data), "graphs.held_out_classes": [1], "graphs.hidden": 8}
    config = load("configs/graphs/cora.yaml", {**overrides, "evaluation.detectors": ["energy"], "train.epochs": 1})
    trainer = train_graphs(config)
    assert isinstance(trainer.source, FileSource) and trainer.source.classes == 2
    test = trainer.source.test(0)
    assert test.ood["held_out_classes"].tolist() == [529, 532, 535, 538] and set(test.labels.tolist()) == {0, 1}
    results = evaluate_graphs(trainer)
    assert {row["dataset"] for row in results.select(kind="detection")} == {"held_out_classes", "mean"}
    (right,) = results.select(kind="accuracy", metric="accuracy", method="head")
    assert right["value"] > 0.9


def write_ogb(root: Path, **parts: np.ndarray) -> dict[str, np.ndarray]:
    """The tables of an OGB graph of 90 nodes of three classes; ``parts`` replace its own."""
    generator = np.random.default_rng(1)
    labels = np.arange(90) % 3
    near = (labels[:, None] == labels) & (generator.random((90, 90)) < 0.2) & ~np.eye(90, dtype=bool)
    own = {
        "raw/edge": np.argwhere(near), "raw/node-label": labels[:, None],
        "raw/node-feat": np.round(np.eye(3)[labels] + generator.random((90, 3)), 6),
        "split/time/train": np.arange(0, 60)[:, None], "split/time/test": np.arange(70, 90)[:, None],
    }  # fmt: skip
    for name, table in {**own, **parts}.items():
        path = root / "ogbn_arxiv" / f"{name}.csv.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress("".join(",".join(map(str, row)) + "\n" for row in table.tolist()).encode()))
    return own


def test_ogb_is_read_from_its_tables_and_trained_on(tmp_path: Path) -> None:
    parts = write_ogb(tmp_path)
    graph = load_graph("ogbn-arxiv", tmp_path)
    adjacency = np.zeros((90, 90), dtype=bool)
    adjacency[tuple(parts["raw/edge"].T)] = True
    both = torch.zeros(90, 90, dtype=torch.bool)
    both[graph.edge_index[0], graph.edge_index[1]] = True
    assert torch.equal(both, torch.from_numpy(adjacency | adjacency.T)) and int(both.sum()) == graph.num_edges
    np.testing.assert_array_equal(graph.x.numpy(), parts["raw/node-feat"].astype(np.float32))
    assert graph.y.tolist() == parts["raw/node-label"][:, 0].tolist()
    assert graph.train_mask.nonzero()[:, 0].tolist() == list(range(60))
    assert graph.test_mask.nonzero()[:, 0].tolist() == list(range(70, 90))
    overrides = {"output": str(tmp_path), "data.root": str(tmp_path), "graphs.dataset": "ogbn-arxiv"}
    config = load("configs/graphs/cora.yaml", {**overrides, "graphs.held_out_classes": [1], "train.epochs": 1})
    trainer = train_graphs(config)
    sample = trainer.source.test(0)
    right = trainer.network(sample.graph.x, sample.graph.edge_index).argmax(dim=1)[sample.nodes] == sample.labels
    assert float(right.double().mean()) > 0.9


@pytest.mark.parametrize(
    ("part", "table", "said"),
    [
        ("raw/edge", np.array([[0, 90]]), "whole numbers below 90"),
        ("raw/edge", np.array([[0, 1, 2]]), "2 whole numbers"),
        ("raw/node-label", np.full((90, 2), 1), "1 whole numbers"),
        ("raw/node-label", np.full((90, 1), 0.5), "1 whole numbers"),
        ("raw/node-label", np.full((89, 1), 1), "89 labels"),
        ("raw/node-feat", np.full((90, 1), np.nan), "missing or infinite"),
        ("raw/node-feat", np.full((90, 1), "cat"), "no table of numbers"),
        ("split/time/test", np.array([[-1]]), "1 whole numbers"),
        ("split/other/train", np.array([[0]]), "leave one there"),
    ],
)
def test_tables_of_ogb_that_hold_something_else_are_a_mistake_of_one_line(
    tmp_path: Path, part: str, table: np.ndarray, said: str
) -> None:
    write_ogb(tmp_path, **{part: table})
    with pytest.raises(UserError, match=said) as caught:
        load_graph("ogbn-arxiv", tmp_path)
    assert "\n" not in str(caught.value)


def test_damaged_files_of_planetoid_are_a_mistake_of_one_line(tmp_path: Path) -> None:
    planetoid(tmp_path)
    path = tmp_path / "Cora" / "raw" / "ind.cora.allx"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match="does not hold Planetoid's files of Cora"):
        load_graph("Cora", tmp_path)


def test_files_that_are_not_there_and_unknown_names(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"ind\.cora\.x is not there"):
        load_graph("Cora", tmp_path)
    with pytest.raises(UserError, match="Did you mean 'Cora'"):
        load_graph("cora", tmp_path)
    with pytest.raises(UserError, match="ogbn_arxiv is not there"):
        load_graph("ogbn-arxiv", tmp_path)
    (tmp_path / "ogbn_mag" / "raw").mkdir(parents=True)
    with pytest.raises(UserError, match=r"node-feat\.csv\.gz is not there"):
        load_graph("ogbn-mag", tmp_path)


def test_the_norm_of_the_gradient_is_limited_where_that_is_asked_for(tmp_path: Path) -> None:
    moved = []
    for limit in (1e-6, None):
        plain = {"optim.momentum": 0.0, "optim.weight_decay": 0.0, "train.clip_grad": limit}
        trainer = GraphTrainer(tiny(tmp_path, **plain))
        before = [weight.detach().clone() for weight in trainer.network.parameters()]
        trainer.train_step(0)
        steps = [after.detach() - one for after, one in zip(trainer.network.parameters(), before, strict=True)]
        moved.append(float(torch.cat([step.flatten() for step in steps]).norm()) / trainer.config.optim.lr)
    assert moved[0] < 2e-6 and moved[1] > 1e-3


@pytest.mark.parametrize(("key", "value"), [("optim.sched", "cosine"), ("train.device", "cuda")])
def test_what_a_run_on_graphs_does_not_heed_is_refused(tmp_path: Path, key: str, value: str) -> None:
    with pytest.raises(UserError, match="Runs on graphs"):
        train_graphs(tiny(tmp_path, **{key: value}))


def test_what_a_run_on_graphs_would_pass_over_in_silence_is_refused(tmp_path: Path) -> None:
    """Mixed precision, a batch size, OOD sets of images did nothing."""
    asked = {"train.amp": True, "train.batch_size": 4, "data.ood": {"noise": "bundled/textures"}, "train.workers": 0}
    with pytest.raises(UserError) as caught:
        train_graphs(tiny(tmp_path, **asked))
    assert str(caught.value) == "A run on graphs does not read data.ood, train.batch_size, train.amp: leave that out."
    assert not (tmp_path / "tiny" / "config.yaml").exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"graphs.held_out_classes": [1]}, "are of a data set"),
        ({"graphs.swapped": 0.99}, "leaves no ID node"),
        ({"control": [{"target": 0.3}]}, "control needs images of one class each: leave it out with graphs"),
        ({"graphs.dataset": "ogbn-arxiv", "graphs.held_out_classes": [7]}, "names 7, which is no class of ogbn-arxiv"),
        ({"graphs.dataset": "ogbn-arxiv", "graphs.held_out_classes": [0]}, "no ID node in its training split"),
    ],
)
def test_what_leaves_nothing_to_learn_or_to_measure_is_refused_first(
    tmp_path: Path, changes: dict[str, object], said: str
) -> None:
    labels = np.arange(90)[:, None] % 3
    labels[:60] = 0
    write_ogb(tmp_path, **{"raw/node-label": labels})
    with pytest.raises(UserError, match=said):
        open_source(tiny(tmp_path, **{"data.root": str(tmp_path), **changes}))
