"""Promoting whole versions and parts of them, rolling back, gates, and the audit table."""

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest
from click.testing import CliRunner

from shoal.cli import cli
from shoal.errors import Conflict, GateClosed, ModelError, TableError, TrackingError
from shops import Shops, sales

# What SQLAlchemy 2.1 says to MLflow 3.17 where a test uses MLflow's own client.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader:DeprecationWarning")

GATE = ', promote_if="mae < champion.mae * 0.9 and failed_share == 0"'


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Shops:
    """Version 1 is the champion; version 2 the challenger, better but in region r1."""
    shops = Shops(tmp_path_factory.mktemp("promotion") / "project")
    shops.train(100.0)
    shops.train(0.1, alias="challenger")
    return shops


@pytest.fixture
def shops(trained, tmp_path) -> Shops:
    """A copy of it for one test."""
    return trained.copy(tmp_path / "project")


def land_test_rows(space) -> pl.DataFrame:
    rows = pl.from_arrow(sales(100, 30))
    weak = pl.when(pl.col("region") == "r1").then(0.29 * pl.col("y")).otherwise("y")
    rows = rows.with_columns(y=weak)
    space.lake.table("gold.test").append(rows.to_arrow())
    return rows


def predicted(space, ref: str, rows: pl.DataFrame) -> list[float]:
    return space.tracker.fleet(ref).predict(rows.to_arrow()).column("prediction").to_pylist()


def champion(space) -> int:
    return space.tracker.pointers("sales")[0].aliases["champion"]


def trail(space) -> list[tuple[str, int | None, int]]:
    return [(m.kind, m.before, m.version) for m in space.audit.moves("sales", "champion")]


def test_only_the_segments_that_won_are_promoted(shops) -> None:
    with shops.open() as space:
        rows = land_test_rows(space)
        served = space.served()
        found = space.evaluate("sales", rows="gold.test")
        done = space.promote("sales", segments=["won"], why="better in r0")
        assert (done.composite, done.move.before, done.move.version) == (True, 1, 3)
        won = sorted(f'["r0","s{i}"]' for i in (2, 4, 6, 8, 10))
        assert list(done.move.segments) == won
        assert champion(space) == 3
        ours = rows.filter(pl.col("region") == "r0")
        others = rows.filter(pl.col("region") == "r1")
        assert predicted(space, "sales@champion", ours) == predicted(space, "sales/2", ours)
        assert predicted(space, "sales@champion", others) == predicted(space, "sales/1", others)
        # The server takes it up, too.
        assert served.refresh() == ["sales: version 1 -> 3"]
        model = served.get("sales")
        assert model.fleet.predict(ours.to_arrow())["prediction"].to_pylist() == predicted(
            space, "sales/2", ours
        )
        assert model.inputs == space.tracker.input_types("sales/1")
        version = space.tracker.resolve("sales/3")
        assert version.tags["shoal.parts"] == "1,2"
        members = space.lake.table("shoal.fleet_sales").scan().filter(pl.col("fleet_version") == 3)
        origin = members.select("segment", "origin_version", "params").collect()
        taken = origin.filter(pl.col("segment").is_in(won))
        assert taken["origin_version"].unique().to_list() == [2]
        assert origin.filter(~pl.col("segment").is_in(won))[
            "origin_version"
        ].unique().to_list() == [1]
        run = space.tracker.run(version.run_id)
        assert run.metrics["segments"] == 12
        both = [space.tracker.run(space.tracker.resolve(f"sales/{n}").run_id) for n in (1, 2)]
        assert both[1].metrics["mae"] < run.metrics["mae"] < both[0].metrics["mae"]
        assert both[0].metrics["r2"] < run.metrics["r2"] < both[1].metrics["r2"]
        assert "5 segments of version 2, the others of version 1" in space.tracker.card("sales/3")
        (move,) = [m for m in space.audit.moves("sales") if m.kind == "promote"]
        assert (move.why, move.evaluation) == ("better in r0", found.id)
        assert move.evidence["members_of"] == 2
        assert move.evidence["table"] == "gold.test@0"
        # Stock MLflow loads it as any model.
        assert stock(space, "models:/sales@champion", ours.head(20)) == pytest.approx(
            predicted(space, "sales/2", ours.head(20))
        )


def stock(space, uri: str, rows: pl.DataFrame) -> list[float]:
    import mlflow

    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(space.tracker.uri)
    try:
        model = mlflow.pyfunc.load_model(uri)
        return model.predict(rows.select("region", "shop", "x0", "x1").to_pandas()).tolist()
    finally:
        mlflow.set_tracking_uri(before)


def test_a_composite_is_a_base_to_train_on_and_to_compose_again(shops) -> None:
    with shops.open() as space:
        rows = land_test_rows(space)
        space.promote("sales", segments=["region=r0"])
        space.promote("sales", 2, segments=["r1,s1"])
        assert champion(space) == 4
        one = rows.filter(pl.col("shop") == "s1")
        assert predicted(space, "sales/4", one) == predicted(space, "sales/2", one)
        (current,) = space.train(["sales"])
        assert current.status == "current", current
        assert champion(space) == 4
        assert [m.status for m in space.learn(()).models] == ["current"]
        back = space.rollback("sales", segments=["r1,s1", '["r0","s2"]'])
        assert (back.composite, champion(space)) == (True, 5)
        assert back.move.segments == ('["r0","s2"]', '["r1","s1"]')
    shops.land()
    report = shops.train(0.1)
    assert report.metrics["segments_fitted"] == 11  # of the training, not of the composite
    with shops.open() as space:
        assert champion(space) == 6


def test_a_fallback_brings_its_group_along(shops) -> None:
    with shops.open() as space:
        small = sales(0, 3).filter(pa.compute.field("shop") == "s0")
        unseen = pl.from_arrow(small).with_columns(shop=pl.lit("s99"))
        small = pl.from_arrow(small)
        space.promote("sales", segments=["r0,s0"])
        assert predicted(space, "sales/3", small) == predicted(space, "sales/2", small)
        assert predicted(space, "sales/3", unseen) == predicted(space, "sales/1", unseen)
        member = space.tracker.fleet("sales/3").member('["r0","s0"]')
        assert (member["status"], member["model_used"]) == ("fallback", '["r0"]@2')
        told = space.tracker.fleet("sales/3").predict(small.to_arrow(), explain=True)
        assert told["fallback"].to_pylist() == [True] * 3
        space.rollback("sales", segments=["r0,s0"])
        assert predicted(space, "sales/4", small) == predicted(space, "sales/1", small)


def test_back_and_back_again(shops) -> None:
    with shops.open() as space:
        with pytest.raises(TrackingError, match="No earlier champion of 'sales' is known"):
            space.rollback("sales")
        space.promote("sales")
        space.promote("sales", 1)
        space.promote("sales", 2)
        assert trail(space)[-3:] == [("promote", 1, 2), ("promote", 2, 1), ("promote", 1, 2)]
        assert space.rollback("sales", why="bad night").move.version == 1
        assert space.rollback("sales").move.version == 2
        assert space.rollback("sales").move.version == 1
        with pytest.raises(TrackingError, match="No earlier champion"):
            space.rollback("sales")
        assert space.rollback("sales", to=2).move.version == 2
        with pytest.raises(TrackingError, match="is the champion now"):
            space.rollback("sales", to=2)
        with pytest.raises(TrackingError, match="has no version 9"):
            space.rollback("sales", to=9)
        assert [m.why for m in space.audit.moves("sales", "champion") if m.why] == ["bad night"]


def test_a_training_that_finds_nothing_new_leaves_what_a_person_decided(shops) -> None:
    with shops.open() as space:
        space.promote("sales")
        space.rollback("sales")
        (report,) = space.train(["sales"])
        assert "version 1 stays the champion, as a person decided" in report.reason
        assert [m.status for m in space.learn(()).models] == ["current"]
        assert champion(space) == 1
    shops.land()
    assert shops.train(0.1).version == 3
    with shops.open() as space:
        assert champion(space) == 3
        assert trail(space)[-1] == ("train", 1, 3)


def test_a_gate_says_its_numbers(tmp_path) -> None:
    shops = Shops(tmp_path / "project")
    assert "challenger" not in shops.train(100.0, GATE).reason  # the first is the champion
    worse = shops.train(1000.0, GATE)
    assert "challenger, for the model has a gate" in worse.reason
    with shops.open() as space:
        with pytest.raises(
            GateClosed, match=r"mae < champion\.mae \* 0\.9: \d.* is false"
        ) as error:
            space.promote("sales")
        assert "each measured by its own training" in error.value.message
        assert "--force" in error.value.hint
        assert (champion(space), trail(space)) == (1, [("train", None, 1)])
        assert space.promote("sales", to="staging").gate == ()
        with pytest.raises(GateClosed):
            space.promote("sales", segments=["r1,s1"])
        assert len(space.tracker.versions("sales")) == 2  # no composite was made in vain
    failed = shops.train(900.0, GATE, promote=True)
    assert "challenger, for the gate is closed: Version 3" in failed.reason
    passed = shops.train(0.1, GATE, promote=True)
    assert "promoted: mae < champion.mae * 0.9: " in passed.reason
    with shops.open() as space:
        assert champion(space) == passed.version == 4
        assert trail(space)[-1] == ("promote", 1, 4)
        assert space.audit.moves("sales", "champion")[-1].evidence["gate"]
        done = space.promote("sales", 2, force=True)
        assert done.notes == ("The gate is closed; it was forced.",)
        assert [m.status for m in space.learn(()).models] == ["current"]


def test_an_evaluation_on_new_rows_counts_for_the_gate(tmp_path) -> None:
    shops = Shops(tmp_path / "project")
    shops.train(100.0, GATE)
    shops.train(0.1, GATE)
    with shops.open() as space:
        space.evaluate("sales")  # on rows that both saw
        land_test_rows(space)
        evaluation = space.evaluate("sales", rows="gold.test", since=None)
        rows = sales(100, 30)
        flipped = pl.from_arrow(rows).with_columns(y=-pl.col("y")).to_arrow()
        space.lake.table("gold.flipped").append(flipped)
        evaluation = space.evaluate("sales", rows="gold.flipped")
        assert evaluation.verdict == "lost"
        with pytest.raises(GateClosed, match=rf"evaluation {evaluation.id}, 330 rows"):
            space.promote("sales")
    shops.declare(0.1, ', promote_if="mea < 1"')
    with shops.open() as space, pytest.raises(ModelError, match="needs mea"):
        space.promote("sales")
    report = shops.train(0.2, ', promote_if="mea < 1"', promote=True)
    assert (report.status, report.version) == ("trained", 3)
    assert "needs mea, which was not measured of the candidate" in report.reason
    with shops.open() as space:
        assert space.promote("sales", force=True).move.version == 3


def test_bad_input_changes_nothing(shops) -> None:
    with shops.open() as space:
        before = trail(space), len(space.tracker.versions("sales"))
        wrong = [
            (("sales", 9), {}, "has no version 9"),
            (("sales", "blue"), {}, "has no alias 'blue'"),
            (("sale",), {}, "Did you mean 'sales'"),
            (("sales", 1), {}, "is the champion already"),
            (("sales",), {"segments": ["won"]}, "No evaluation tells"),
            (("sales",), {"segments": ["r9,s1"]}, "no segment r9,s1"),
            (("sales",), {"segments": ["region=r9"]}, "no segment region=r9"),
            (("sales",), {"segments": ["regio=r1"]}, "no segment regio=r1"),
            (("sales",), {"to": "v7"}, "cannot be an alias"),
            (("sales",), {"to": "a b"}, "cannot be an alias"),
            (("sales",), {"to": "latest"}, "cannot be an alias"),
            (("sales",), {"to": "new", "segments": ["r1,s1"]}, "has no new whose"),
        ]
        for arguments, options, message in wrong:
            with pytest.raises((TrackingError, ModelError), match=message):
                space.promote(*arguments, **options)
        assert (trail(space), len(space.tracker.versions("sales"))) == before


def test_a_version_of_another_tool_or_of_another_shape_is_refused(shops, tmp_path) -> None:
    import mlflow.pyfunc
    from mlflow import MlflowClient

    with shops.open() as space:
        folder = tmp_path / "other"
        mlflow.pyfunc.save_model(str(folder), loader_module="json", pip_requirements=[])
        client = MlflowClient(space.tracker.uri, space.tracker.uri)
        client.create_model_version("sales", str(folder))
        with pytest.raises(TrackingError, match="version 3 was not trained by Shoal"):
            space.evaluate("sales", challenger="3")
        with pytest.raises(TrackingError, match="version 3 was not trained by Shoal"):
            space.promote("sales", 3, segments=["r1,s1"])
        assert space.promote("sales", 3).move.version == 3  # as a whole it may be served elsewhere
        with pytest.raises(TrackingError, match="was not trained by Shoal"):
            space.promote("sales", segments=["r1,s1"])
        space.rollback("sales")
    other = shops.train(0.1, ', features=["x0"]', alias="challenger")
    with shops.open() as space:
        with pytest.raises(ModelError, match="differ in features") as error:
            space.promote("sales", segments=["r1,s1"])
        assert f"shoal promote sales {other.version}" in error.value.hint


def test_members_that_were_deleted_are_told(shops) -> None:
    with shops.open() as space:
        table = space.lake.table("shoal.fleet_sales")
        added = table.changes(after=1, until=2).files
        for file in added:
            Path(file.path).unlink()
        with pytest.raises(TableError, match="members of 'sales' version 2 are no longer"):
            space.promote("sales", segments=["r1,s1"])
        assert space.promote("sales").move.version == 2


def test_aliases_that_other_tools_moved_are_seen(shops) -> None:
    with shops.open() as space:
        space.tracker.set_alias("sales", "champion", 2)
        assert trail(space) == [("train", None, 1), ("outside", 1, 2)]
        assert space.promote("sales", 1).move.before == 2
        assert space.rollback("sales").move.version == 2


MOVE = """
import os, sys
from shoal.tracking import Tracker
from shoal.workspace import Workspace

with Workspace.open(sys.argv[1]) as space:
    space.tracker.pointers("sales")
    if sys.argv[3] == "dies":
        Tracker.point_alias = lambda *_, **__: os._exit(9)
    print("ready", flush=True)
    sys.stdin.readline()
    space.audit.move("sales", "champion", int(sys.argv[2]), kind="promote", expected=1)
"""


def start(shops: Shops, version: int, how: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(MOVE), str(shops.root), str(version), how],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "ready\n"
    return process


def test_of_two_promotions_at_once_one_wins(shops) -> None:
    third = shops.train(10.0, alias="third").version
    processes = [start(shops, version, "lives") for version in (2, third)]
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    ends = [(p.communicate()[1], p.returncode) for p in processes]
    assert sorted(code for _, code in ends) == [0, 1], ends
    assert "Conflict" in next(error for error, code in ends if code)
    winner = (2, third)[[code for _, code in ends].index(0)]
    with shops.open() as space:
        assert trail(space) == [("train", None, 1), ("promote", 1, winner)]
        assert champion(space) == winner


def test_a_move_that_died_half_way_is_finished_by_the_next(shops) -> None:
    process = start(shops, 2, "dies")
    process.communicate("go\n")
    assert process.returncode == 9
    with shops.open() as space:
        assert champion(space) == 1
        with pytest.raises(Conflict, match="is version 2 now; this began when it was 1"):
            space.promote("sales")
        assert champion(space) == 2
        assert trail(space) == [("train", None, 1), ("promote", 1, 2)]
        assert space.rollback("sales").move.version == 1


def test_a_move_to_a_version_that_is_gone_is_given_up(shops) -> None:
    from mlflow import MlflowClient

    process = start(shops, 2, "dies")
    process.communicate("go\n")
    with shops.open() as space:
        MlflowClient(space.tracker.uri, space.tracker.uri).delete_model_version("sales", "2")
    third = shops.train(10.0, alias="challenger").version
    with shops.open() as space:
        assert space.promote("sales").move.before == 1
        assert champion(space) == third


def test_the_audit_table_is_put_together_again(shops, monkeypatch) -> None:
    monkeypatch.setattr("shoal.workspace.audit._COMPACTED", 8)
    with shops.open() as space:
        for _ in range(8):
            space.audit.move("sales", "champion", 2, kind="promote")
            space.audit.move("sales", "champion", 1, kind="promote")
        assert space.lake.table("shoal.promotions").size()[1] < 10
        moves = space.audit.moves("sales", "champion")
        assert [move.number for move in moves] == list(range(1, 18))


def shell(shops: Shops, *arguments: str) -> str:
    result = CliRunner().invoke(cli, [*arguments, "--project", str(shops.root)])
    assert result.exit_code == 0, result.output
    return result.output


def test_the_commands(shops) -> None:
    shops.land()
    found = json.loads(shell(shops, "evaluate", "sales", "--json"))
    assert (found["verdict"], found["seen"]) == ("won", "neither")
    text = shell(shops, "evaluate", "sales", "--challenger", "2", "--champion", "1")
    assert "neither version saw these rows in training" in text
    assert "shoal promote sales 2 --segments won" in text
    done = json.loads(shell(shops, "promote", "sales", "--segments", "won", "--json"))
    assert (done["composite"], done["move"]["version"]) == (True, 3)
    assert "champion version 3 -> version 4, a new composite (1 segments" in shell(
        shops, "rollback", "sales", "--segment", "r1,s1", "--why", "[odd] night"
    )
    moves = json.loads(shell(shops, "history", "sales", "--json"))
    assert [move["kind"] for move in moves] == ["rollback", "promote", "train", "train"]
    assert "[odd] night" in shell(shops, "history", "sales")
    assert "No such option" in CliRunner().invoke(cli, ["promote", "sales", "--nothing"]).output
    shown = shell(shops, "show", "sales@challenger")
    for word in (
        "fleet version 2",
        "gold.sales",
        "fewer training rows than min_rows",
        "challenger -> 2",
    ):
        assert word in shown
    assert json.loads(shell(shops, "show", "sales", "--json"))["version"] == 4
