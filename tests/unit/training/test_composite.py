"""Members of two trainings as one fleet: each as it was, and together measured right."""

import numpy as np
import polars as pl
import pytest

from shoal.models import Fleet
from shoal.training import Part, compose
from shops import Shops


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Two versions of one fleet, on two versions of its table, opened."""
    shops = Shops(tmp_path_factory.mktemp("composite") / "project")
    shops.train(100.0)
    shops.land()
    shops.train(0.1, alias="challenger")
    with shops.open() as space:
        parts = []
        for number in (1, 2):
            tags = space.tracker.resolve(f"sales/{number}").tags
            parts.append(
                Part(
                    version=number,
                    members_version=int(tags["shoal.members_version"]),
                    table_version=int(tags["shoal.table_version"]),
                    current_version=int(tags["shoal.current_version"]),
                    header=space.tracker.fleet(f"sales/{number}").header,
                )
            )
        yield space, parts


def rows(space, number: int) -> pl.DataFrame:
    table = space.lake.table("shoal.fleet_sales")
    return table.scan().filter(pl.col("fleet_version") == number).collect()


def metrics(space, number: int) -> dict[str, float]:
    return dict(space.tracker.run(space.tracker.resolve(f"sales/{number}").run_id).metrics)


@pytest.mark.parametrize("seed", range(6))
def test_each_member_is_that_of_its_version(trained, seed) -> None:
    space, parts = trained
    one, two = rows(space, 1), rows(space, 2)
    every = one.filter(pl.col("level") == 0)["segment"].to_list()
    random = np.random.default_rng(seed)
    keys = [key for key in every if random.random() < (0.0, 1.0, 0.5)[seed % 3]]
    made = compose(space.models["sales"], space.lake, *parts, keys)
    segments = made.members.filter(pl.col("level") == 0).sort("segment")
    assert segments["segment"].to_list() == sorted(every)
    same = ["state", "template", "params", "origin_version", "rows_hash", "mae", "status"]
    for key, frame in ((True, two), (False, one)):
        chosen = pl.col("segment").is_in(keys) == key
        expected = frame.filter(chosen & (pl.col("level") == 0)).sort("segment")
        assert segments.filter(chosen).select(same).equals(expected.select(same))
    known = dict(
        made.members.filter(pl.col("structure").is_not_null())[["template", "structure"]].rows()
    )
    assert known.keys() == set(made.members["template"].drop_nulls())
    assert made.templates == known
    used = set(segments["model_used"]) - set(made.members["segment"])
    assert not used


def test_together_they_are_measured_as_one(trained) -> None:
    space, parts = trained
    every = rows(space, 1).filter(pl.col("level") == 0)["segment"].to_list()
    names = (
        "mae",
        "rmse",
        "r2",
        "bias",
        "baseline_mae",
        "skill",
        "segments_fallback",
        "rows_holdout",
    )
    none = compose(space.models["sales"], space.lake, *parts, [])
    every_one = compose(space.models["sales"], space.lake, *parts, every)
    for made, number in ((none, 1), (every_one, 2)):
        alone = metrics(space, number)
        for name in names:
            assert made.metrics[name] == pytest.approx(alone[name], rel=1e-9), name
    half = compose(space.models["sales"], space.lake, *parts, every[::2])
    held = half.members.filter((pl.col("level") == 0) & pl.col("mae").is_not_null())
    expected = (held["mae"] * held["rows_holdout"]).sum() / held["rows_holdout"].sum()
    assert half.metrics["mae"] == pytest.approx(expected)


def test_what_is_composed_is_written_only_when_committed(trained) -> None:
    space, parts = trained
    table = space.lake.table("shoal.fleet_sales")
    before = table.version()
    made = compose(space.models["sales"], space.lake, *parts, ['["r1","s3"]'])
    assert table.version() == before
    inputs = space.tracker.input_types("sales/1")
    example = space.tracker.input_example("sales/1")
    fleet = made.commit(space.lake, inputs=inputs, example=example, reason="a test")
    assert (fleet.members_version, fleet.tags["shoal.parts"]) == (before + 1, "1,2")
    assert (fleet.table_version, fleet.current_version) == (1, 1)
    opened = Fleet.open(fleet.artifact)
    assert opened.member('["r1","s3"]')["status"] == "ok"
    assert set(opened.header.templates) == set(made.templates)
