"""A group of PyTorch workers that Apache Spark starts finds what one on this machine finds."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from shoal.engines import connect
from shoal.engines.sparkhome import SPARK
from shoal.errors import TrainingError
from shoal.lake import Lake
from shoal.models import Fleet, collecting_models, model
from shoal.training import train

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(900)]
pytest.importorskip("skorch")


@pytest.fixture
def spark(spark_url):
    with connect(spark_url) as engine:
        yield engine.spark


def rows() -> pa.Table:
    random = np.random.default_rng(0)
    x = random.normal(size=(600, 3))
    columns = {f"x{i}": x[:, i] for i in range(3)}
    return pa.table({"t": np.arange(600), **columns, "y": np.sin(x[:, 0]) + x[:, 1]})


@pytest.fixture
def lake(tmp_path) -> Lake:
    lake = Lake(tmp_path / "lake")
    lake.table("gold.rows").append(rows())
    return lake


def net():
    import skorch
    import torch
    from torch import nn

    layers = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 1))
    return make_pipeline(
        StandardScaler(),
        skorch.NeuralNetRegressor(
            layers, optimizer=torch.optim.SGD, lr=0.02, max_epochs=5, batch_size=50,
            train_split=None, verbose=0, iterator_train__shuffle=True,
        ),
    )  # fmt: skip


def declared(build=net):
    with collecting_models() as found:
        model(table="gold.rows", target="y", time="t", name="net", holdout=0.2, workers=2)(build)
    return found[0]


def test_it_finds_the_same_bits(spark, lake) -> None:
    here = train(declared(), lake)
    there = train(declared(), lake, spark=spark)
    first, second = (Fleet.open(trained.artifact).predict(rows()) for trained in (here, there))
    assert second.equals(first)
    assert there.metrics["mae"] == here.metrics["mae"] < 0.7 * here.metrics["baseline_mae"]


def test_what_its_code_raises_is_told_and_a_lost_worker_too(spark, lake) -> None:
    def too_fast():
        made = net()
        made[-1].set_params(lr=1e30)
        return made

    def dies():
        import os as system

        if system.environ.get("RANK") == "1":
            system.kill(system.getpid(), 9)
        return net()

    with pytest.raises(TrainingError, match=r"the loss is (nan|inf) in epoch \d+: lower the learn"):
        train(declared(too_fast), lake, spark=spark)
    with pytest.raises(TrainingError, match="A worker of 2 on Spark was lost, 4 times") as caught:
        train(declared(dies), lake, spark=spark)
    assert "TMPDIR" in (caught.value.hint or "")
    assert not lake.table("shoal.fleet_net").exists()


def told(build, log: Path, kill_at: int | None = None):
    """The function, whose net notes each epoch; its second worker is killed once after one."""

    def make():
        import os as system
        import signal
        import sys
        from pathlib import Path as File

        from skorch.callbacks import Callback

        if "RANK" in system.environ:
            File(f"{log}.folder").write_text(sys.argv[1])

        class Note(Callback):
            def on_epoch_end(self, net, **_):
                rank, epoch = system.environ["RANK"], len(net.history)
                with File(log).open("a") as file:
                    file.write(f"{rank} {epoch}\n")
                mark = File(f"{log}.killed")
                if rank == "1" and epoch == kill_at and not mark.exists():
                    mark.touch()
                    system.kill(system.getpid(), signal.SIGKILL)

        made = build()
        made[-1].set_params(callbacks=[("note", Note())])
        return made

    return make


def test_a_worker_killed_in_the_middle_costs_an_epoch_and_changes_nothing(
    spark, lake, tmp_path
) -> None:
    def longer():
        made = net()
        made[-1].set_params(max_epochs=12)
        return made

    logs = [tmp_path / name for name in ("whole", "killed")]
    first = train(declared(told(longer, logs[0])), lake, spark=spark)
    second = train(declared(told(longer, logs[1], kill_at=5)), lake, spark=spark)
    assert (tmp_path / "killed.killed").exists()
    # What the workers share is in the lake, which they see whatever their own temporary folder.
    assert (tmp_path / "whole.folder").read_text().startswith(str(tmp_path / "lake/_training"))
    assert not list((tmp_path / "lake/_training").iterdir())
    whole, killed = (Fleet.open(one.artifact).predict(rows()) for one in (first, second))
    assert killed.equals(whole)
    assert second.metrics["mae"] == first.metrics["mae"]
    # It went on from what was saved: the first epochs were not made again.
    epochs = [line.split()[1] for line in logs[1].read_text().splitlines() if line[0] == "0"]
    again = len(epochs) - len([line for line in logs[0].read_text().splitlines() if line[0] == "0"])
    assert again <= 2, epochs
    assert epochs.count("1") == logs[0].read_text().count("0 1\n")


def test_a_persons_own_torch_distributor_runs_on_the_same_spark(spark, spark_url) -> None:
    from importlib.metadata import version

    from pyspark.ml.torch.distributor import TorchDistributor

    assert version("pyspark-client") == SPARK
    if spark.version != version("pyspark-client"):
        pytest.skip(f"{spark_url} is Spark {spark.version}")

    def train(more: int) -> float:
        import torch
        from torch import distributed

        distributed.init_process_group("gloo")
        told = torch.ones(1) * (distributed.get_rank() + 1)
        distributed.all_reduce(told)
        distributed.destroy_process_group()
        return float(told) + more

    found = TorchDistributor(num_processes=2, local_mode=False, use_gpu=False).run(train, 10)
    assert found == 13.0
