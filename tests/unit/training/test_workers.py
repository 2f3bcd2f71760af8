"""Several processes fit one model: to the result of one, and also when one of them dies."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from xgboost import XGBClassifier, XGBRegressor

from shoal.errors import ModelError, TrainingError
from shoal.lake import Lake
from shoal.models import Fleet, ModelDeclaration, collecting_models, model
from shoal.models.deep.batches import ArrayRows, Batches
from shoal.training import train
from shoal.training.distributed import fit_together
from shoal.training.distributed.launch import launch
from shoal.training.distributed.rows import MappedRows, write_rows
from shoal.training.job import FitJob
from shoal.training.plan import Plan
from shoal.training.run import gather
from shoal.training.source import open_source

heavy = pytest.mark.heavy


def rows(count: int = 600) -> pa.Table:
    random = np.random.default_rng(0)
    x = random.normal(size=(count, 3))
    y = x @ [1.0, -2.0, 3.0] + 0.1 * random.normal(size=count)
    names = np.array(["low", "middle", "high"])[np.digitize(y, [-2.0, 2.0])]
    return pa.table(
        {"t": range(count), "a": x[:, 0], "b": x[:, 1], "c": x[:, 2], "y": y, "name": names}
    )


@pytest.fixture(scope="module")
def lake(tmp_path_factory) -> Lake:
    lake = Lake(tmp_path_factory.mktemp("lake"))
    lake.table("gold.t").append(rows())
    return lake


def declare(function, **changes) -> ModelDeclaration:
    fields = {"table": "gold.t", "target": "y", "name": "m", "features": ["a", "b", "c"]}
    with collecting_models() as found:
        model(**(fields | changes))(function)
    return found[0]


def net(**changes):
    """A function that makes a net of these settings."""

    def make():
        import skorch
        import torch
        from torch import nn

        layers = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 1))
        fields = {
            "optimizer": torch.optim.SGD, "lr": 0.02, "max_epochs": 4, "batch_size": 50,
            "train_split": None, "verbose": 0, "iterator_train__shuffle": True,
        }  # fmt: skip
        return make_pipeline(
            StandardScaler(), skorch.NeuralNetRegressor(layers, **(fields | changes))
        )

    return make


def predicted(lake: Lake, declaration: ModelDeclaration):
    trained = train(declaration, lake)
    fleet = Fleet.open(trained.artifact)
    return trained, np.array(fleet.predict(rows())["prediction"].to_pylist())


@pytest.mark.parametrize("workers", [1, 2, 3, 7])
@pytest.mark.parametrize("shuffle", [False, True])
def test_the_shares_of_all_workers_are_the_global_batches(workers, shuffle) -> None:
    target = np.arange(23)
    source = ArrayRows(target[:, None] * [1.0, 2.0], target)

    def batches(rank, count):
        made = Batches(rows=source, size=5, shuffle=shuffle, seed=3, rank=rank, workers=count)
        assert len(made) == 5
        return [list(made.epoch(e)) for e in (0, 1)]

    (whole,) = [batches(0, 1)]
    shares = [batches(rank, workers) for rank in range(workers)]
    for epoch in (0, 1):
        for number, batch in enumerate(whole[epoch]):
            parts = [s[epoch][number] for s in shares]
            counted = [p.target[: p.rows] for p in parts]
            np.testing.assert_array_equal(np.concatenate(counted), batch.target)
            # Sizes differ by one at most, and nobody has nothing to compute with.
            assert max(p.rows for p in parts) - min(p.rows for p in parts) <= 1
            assert all(len(p.target) for p in parts)
            assert sum(p.rows / p.total for p in parts) == pytest.approx(1.0)
    seen = np.concatenate([b.target for b in whole[1]])
    assert set(seen) == set(target)
    assert (list(seen) == list(target)) != shuffle


def test_rows_are_written_in_their_own_order_and_mapped(tmp_path) -> None:
    random = np.random.default_rng(1)
    count = 70_000  # more than one batch of the file
    target = random.normal(size=count)
    target[[5, 60_000]] = np.nan, np.inf
    table = pa.table({"0": random.normal(size=count), "1": np.arange(count, dtype=float),
                      "target": target})  # fmt: skip
    job = FitJob(
        build=StandardScaler, features=2, classes=0, timed=False, nan_ok=False, metrics=("mae",),
        metric="mae", baseline="mean", holdout=0.2, min_rows=5,
    )  # fmt: skip
    found = []
    for name, order in (("first", np.arange(count)), ("other", random.permutation(count))):
        with (
            pa.OSFile(str(tmp_path / name), "wb") as sink,
            pa.ipc.new_file(sink, table.schema) as w,
        ):
            w.write_table(table.take(pa.array(order)), max_chunksize=9_000)
        block = write_rows(tmp_path / name, tmp_path / f"{name}.rows", job)
        assert (block.rows, block.dropped) == (count - 2, 2)
        found.append((block.hashes, MappedRows(tmp_path / f"{name}.rows")))
    (hashes, mapped), (others, other) = found
    # However rows come, they lie in the same order.
    assert hashes == others
    assert mapped.file.read_bytes() == other.file.read_bytes()
    at = np.array([69_997, 0, 65_536, 65_535])
    features, values = mapped.take(at)
    positions = features[:, 1].astype(int)
    np.testing.assert_array_equal(features[:, 0], table["0"].to_numpy()[positions])
    np.testing.assert_array_equal(values, target[positions])
    np.testing.assert_array_equal(mapped[65_530:65_540][:, 1], np.asarray(mapped)[65_530:65_540, 1])


def _own_memory() -> int:
    """Bytes of this process that are no pages of files."""
    text = Path("/proc/self/status").read_text()
    return 1024 * int(text.split("RssAnon:")[1].split()[0])


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_a_worker_holds_no_copy_of_the_rows(tmp_path) -> None:
    random = np.random.default_rng(0)
    count, features = 200_000, 32  # 51 MB
    table = {str(i): random.normal(size=count) for i in range(features)}
    with pa.OSFile(str(tmp_path / "sorted"), "wb") as sink:
        rows = pa.table(table | {"target": random.normal(size=count)})
        with pa.ipc.new_file(sink, rows.schema) as writer:
            writer.write_table(rows)
    job = FitJob(
        build=StandardScaler, features=features, classes=0, timed=False, nan_ok=False,
        metrics=("mae",), metric="mae", baseline="mean", holdout=0.2, min_rows=5,
    )  # fmt: skip
    write_rows(tmp_path / "sorted", tmp_path / "rows", job)
    del rows, table
    before = _own_memory()
    mapped = MappedRows(tmp_path / "rows")
    seen = 0
    for share in Batches(rows=mapped, size=1_000, shuffle=True, rank=1, workers=2).epoch(0):
        seen += share.rows
    assert seen == count // 2
    # The order of the rows is held, 8 bytes each.
    assert _own_memory() - before < 0.2 * 8 * features * count


def test_by_weights_and_senseless_numbers_are_refused() -> None:
    with pytest.raises(ModelError, match="by= makes many models"):
        declare(net(), by=["name"], workers=2)
    with pytest.raises(ModelError, match="expected 1 or more"):
        declare(net(), workers=0)
    with pytest.raises(ModelError, match="does not take weights"):
        declare(net(), workers=2, weight="a", features=["b"])


def test_a_library_that_is_missing_is_named_with_its_pip_line() -> None:
    def without():
        raise ModuleNotFoundError("No module named 'torch'", name="torch.nn")

    with pytest.raises(ModelError, match="No module named 'torch'") as refused:
        declare(without).build()
    assert refused.value.hint == "install it: pip install 'shoal[torch]'"


def test_estimators_that_workers_cannot_share_are_refused(lake) -> None:
    with pytest.raises(TrainingError, match="found a StandardScaler") as refused:
        from shoal.training.distributed.learners import kind_of

        kind_of(StandardScaler())
    assert "leave workers out" in (refused.value.hint or "")


BOOSTED = {"n_estimators": 30, "max_depth": 4, "tree_method": "hist", "n_jobs": 1}


def test_two_workers_boost_as_one_process_does(lake) -> None:
    _, expected = predicted(lake, declare(lambda: XGBRegressor(**BOOSTED), holdout=0))
    _, found = predicted(lake, declare(lambda: XGBRegressor(**BOOSTED), holdout=0, workers=2))
    # Bins are merged sketches of both workers' rows: close, not equal.
    assert np.abs(found - expected).mean() < 0.05 * np.std(expected)


@heavy
def test_classes_are_boosted_by_workers_to_the_same_bits_again(lake) -> None:
    fields = {"target": "name", "metric": "accuracy"}
    alone, expected = predicted(lake, declare(lambda: XGBClassifier(**BOOSTED), **fields))
    declaration = declare(lambda: XGBClassifier(**BOOSTED), workers=2, **fields)
    together, found = predicted(lake, declaration)
    assert together.metrics["accuracy"] == pytest.approx(alone.metrics["accuracy"], abs=0.03)
    assert (found == expected).mean() > 0.98
    _, again = predicted(lake, declaration)
    np.testing.assert_array_equal(again, found)


@heavy
def test_two_workers_find_the_net_that_one_process_finds(lake) -> None:
    pytest.importorskip("skorch")
    alone, expected = predicted(lake, declare(net()))
    one, same = predicted(lake, declare(net(), workers=1))
    measured = ("mae", "rmse", "r2", "bias", "baseline_mae", "segments")
    two, found = predicted(lake, declare(net(), workers=2))
    np.testing.assert_array_equal(same, expected)
    # Sums in another order: rounding of float32, carried through 48 steps.
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    assert two.metrics["mae"] == pytest.approx(alone.metrics["mae"], rel=1e-4)
    assert two.metrics["mae"] < 0.7 * two.metrics["baseline_mae"]
    assert [one.metrics[m] for m in measured] == [alone.metrics[m] for m in measured]


def _interrupted(kill_after: int, tells: list[int]):
    """A launcher whose second worker is killed once after so many epochs."""

    def run(folder: Path, workers: int, kind: str, progress):
        def told(epoch: int) -> None:
            tells.append(epoch)
            if epoch >= kill_after and not (folder / "killed").exists():
                (folder / "killed").touch()
                pid = int((folder / "pid-1").read_text())
                os.kill(pid, signal.SIGKILL)

        launch(folder, workers, kind, told)

    return run


def _fitted(lake, declaration, tmp_path, run):
    plan = Plan(declaration, open_source(declaration, lake, None))
    tmp_path.mkdir(exist_ok=True)
    members = gather(plan, fit_together(plan, tmp_path, None, run))
    return members.table.column("state")[0].as_py()


def told_pid(build):
    """The function, whose workers write their process id beside their job."""

    def make():
        import os as system
        import sys
        from pathlib import Path as Folder

        if "WORLD_SIZE" in system.environ:
            Folder(sys.argv[1], f"pid-{system.environ['RANK']}").write_text(str(system.getpid()))
        return build()

    return make


@heavy
def test_a_worker_killed_in_the_middle_costs_an_epoch_and_changes_nothing(lake, tmp_path) -> None:
    pytest.importorskip("skorch")
    declaration = declare(told_pid(net(max_epochs=40)), workers=2, holdout=0)
    tells: list[int] = []
    whole = _fitted(lake, declaration, tmp_path / "whole", launch)
    killed = _fitted(lake, declaration, tmp_path / "killed", _interrupted(7, tells))
    assert killed == whole
    # It went on from what it had saved: no epoch before the kill was made again.
    assert tells[:7] == list(range(1, 8))
    assert tells[-1] == 40
    assert len(tells) <= 43


def _torchrun(folder: Path, workers: int, kind: str, progress) -> None:
    subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node",
         str(workers), "-m", "shoal.training.distributed.worker", str(folder)],
        check=True, capture_output=True, timeout=250,
    )  # fmt: skip


@heavy
def test_torchrun_starts_the_same_workers(lake, tmp_path) -> None:
    pytest.importorskip("skorch")
    declaration = declare(net(), workers=2, holdout=0)
    ours = _fitted(lake, declaration, tmp_path / "ours", launch)
    assert _fitted(lake, declaration, tmp_path / "theirs", _torchrun) == ours


@heavy
def test_workers_that_keep_dying_are_given_up(lake, tmp_path) -> None:
    pytest.importorskip("skorch")

    def dies():
        import os as system

        if system.environ.get("RANK") == "1":
            system.kill(system.getpid(), 9)
        return net()()

    with pytest.raises(TrainingError, match=r"Worker 1 of 2 died \(signal 9.*\), 4 times"):
        train(declare(dies, workers=2, holdout=0), lake)


@heavy
def test_what_a_workers_code_raises_is_told_at_once(lake) -> None:
    pytest.importorskip("skorch")
    with pytest.raises(TrainingError, match=r"the loss is (nan|inf) in epoch \d+: lower the learn"):
        train(declare(net(lr=1e30),
                      workers=2, holdout=0), lake)  # fmt: skip
    with pytest.raises(TrainingError, match="train_split=None"):
        train(declare(net(train_split=5), workers=2, holdout=0), lake)
    with pytest.raises(TrainingError, match="workers is 700, but only 600 rows"):
        train(declare(net(), workers=700, holdout=0), lake)


class Loop(RegressorMixin, BaseEstimator):
    """A training loop of one's own: least squares by gradients, in numpy."""

    backend = "torch"

    def fit(self, x, y):
        raise AssertionError("workers fit it")

    def fit_shard(self, shard, context):
        weight, first = np.zeros(3), 0
        saved = context.restore()
        if saved:
            weight, first = np.frombuffer(saved[0]).copy(), saved[1]
        for epoch in range(first, 30):
            for x, y, share in shard.batches(100, epoch=epoch):
                weight -= 0.1 * context.add(share * x.T @ (x @ weight - y) / len(y))
            context.save(weight.tobytes(), epoch + 1)
        self.weight_ = weight
        return self

    def predict(self, x):
        return x @ self.weight_


@heavy
def test_a_loop_of_ones_own_sees_its_shard_and_the_group(lake, monkeypatch) -> None:
    pytest.importorskip("torch")
    monkeypatch.setenv("SHOAL_TRUSTED_MODULES", __name__)
    _, found = predicted(lake, declare(Loop, workers=2))
    expected = np.c_[rows()["a"], rows()["b"], rows()["c"]] @ [1.0, -2.0, 3.0]
    assert np.abs(found - expected).max() < 0.1


def keras_model():
    import keras

    layers = keras.Sequential(
        [keras.Input((3,)), keras.layers.Dense(8, "relu"), keras.layers.Dense(1)]
    )
    layers.compile(keras.optimizers.Adam(0.02), "mse")
    kept = {"epochs": 3, "batch_size": 60}
    return keras.wrappers.SKLearnRegressor(layers, fit_kwargs=kept)


@heavy
@pytest.mark.filterwarnings("ignore")
def test_two_workers_fit_a_keras_model_as_one_does_also_when_one_is_killed(lake, tmp_path) -> None:
    pytest.importorskip("tensorflow")
    _, one = predicted(lake, declare(keras_model, workers=1, holdout=0))
    two_workers = declare(told_pid(keras_model), workers=2, holdout=0)
    trained, two = predicted(lake, two_workers)
    np.testing.assert_allclose(two, one, rtol=1e-3, atol=1e-3)
    header = json.loads((Path(trained.artifact) / "fleet.json").read_text())
    assert header["modules"] == []
    tells: list[int] = []
    whole = lake.table("shoal.fleet_m").scan().collect()
    last = whole.filter(whole["fleet_version"] == trained.fleet_version)["state"][0]
    assert _fitted(lake, two_workers, tmp_path / "killed", _interrupted(1, tells)) == last
