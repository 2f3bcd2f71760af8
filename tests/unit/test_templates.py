"""The example projects: what lands, what the layers make of it, and what the models are worth."""

import datetime as dt
import runpy
from pathlib import Path

import polars as pl
import pytest
from click.testing import CliRunner

from shoal.cli import cli, project
from shoal.cli.project import write_template
from shoal.training import train
from shoal.workspace import Workspace

TEMPLATES = Path(project.__file__).parent / "templates"
UNTIL = dt.date(2014, 11, 30)
NAMES = sorted(path.name for path in TEMPLATES.iterdir() if path.is_dir())


def landing(name):
    return runpy.run_path(str(TEMPLATES / name / "land.py"))["land"]


def files(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def table(space, name):
    return space.lake.table(name).scan().collect()


def refreshed(space):
    report = space.run(space.options(), models=False)
    assert not report.failed, [(r.table, r.error) for r in report.tables if r.status == "failed"]
    return {r.table: r for r in report.tables}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.heavy if n == "digits" else ()) for n in NAMES]
)
def test_template_is_whole(name, tmp_path):
    if name == "digits":
        pytest.importorskip("skorch")
    folder = tmp_path / "mine"
    write_template(name, folder, "mine")
    assert (folder / "spark-pipeline.yml").read_text().startswith("name: mine\n")
    for part in ("README.md", "land.py", ".gitignore", "transformations", "models"):
        assert (folder / part).exists()
    assert f"# {name.title()}" in (folder / "README.md").read_text()
    with Workspace.open(folder) as space:
        for declaration in space.models.values():
            declaration.build()


@pytest.mark.parametrize("name", NAMES)
def test_readme_names_only_commands_that_exist(name):
    lines = (TEMPLATES / name / "README.md").read_text().splitlines()
    shown = [line.split("#")[0].split() for line in lines if line.startswith("    ")]
    commands = {words[1] for words in shown if words[0] == "shoal"}
    assert {"run", "plan", "serve"} <= commands
    for command in commands:
        result = CliRunner().invoke(cli, [command, "--help"])
        assert result.exit_code == 0, command


@pytest.fixture(scope="module")
def flights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("flights") / "flights"
    write_template("flights", folder, "flights")
    with Workspace.open(folder) as space:
        landing("flights")(folder / "landing", [1])
        refreshed(space)
        landing("flights")(folder / "landing", [2])
        yield space, refreshed(space)


@pytest.fixture(scope="module")
def energy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("energy") / "energy"
    write_template("energy", folder, "energy")
    landing("energy")(folder / "landing", meters=40, days=35, until=UNTIL)
    with Workspace.open(folder) as space:
        refreshed(space)
        yield space


class TestFlights:
    def test_lands_whole_files_once(self, tmp_path):
        assert landing("flights")(tmp_path, [1]) == 27_004
        before = files(tmp_path)
        assert len(before) == 31 + 1 + 3
        assert not [path for path in before if path.name.startswith(".")]
        landing("flights")(tmp_path, [1, 2])
        assert before.items() <= files(tmp_path).items()  # not written again

    def test_counts_through_the_layers(self, flights):
        space, _ = flights
        bronze, silver = table(space, "bronze.flights"), table(space, "silver.flights")
        assert bronze.height == 27_004 + 24_951
        assert bronze["source_file"].n_unique() == 31 + 28
        assert bronze["ingested_at"].null_count() == bronze["_corrupt_record"].count() == 0
        cancelled = bronze["dep_time"].null_count()
        assert cancelled == 521 + 1_261
        assert silver.height == bronze.height - cancelled
        assert table(space, "gold.delay_features").height == silver.height
        assert table(space, "gold.route_days")["planned"].sum() == bronze.height
        assert table(space, "gold.route_days")["flights"].sum() == silver.height

    def test_the_second_month_is_read_alone(self, flights):
        _, second = flights
        assert second["bronze.flights"].rows == 24_951
        assert second["gold.delay_features"].rows == 24_951 - 1_261
        assert second["bronze.planes"].status == "unchanged"

    def test_flight_id_names_one_flight(self, flights):
        space, _ = flights
        ids = table(space, "silver.flights")["flight_id"]
        assert ids.n_unique() == len(ids)
        assert ids.null_count() == 0

    def test_a_line_that_does_not_fit_is_kept_in_bronze_only(self, tmp_path):
        write_template("flights", tmp_path / "f", "flights")
        landing("flights")(tmp_path / "f" / "landing", [1])
        first, *others = sorted((tmp_path / "f" / "landing" / "flights").iterdir())
        for path in others:
            path.unlink()
        line = first.read_text().splitlines()[0]
        with first.open("a") as file:
            file.write(line[:100] + "\n")
            file.write(line.replace('"distance":1400', '"distance":"far"') + "\n")
        with Workspace.open(tmp_path / "f") as space:
            reports = refreshed(space)
            bronze, silver = table(space, "bronze.flights"), table(space, "silver.flights")
        assert bronze.height == 842 + 2
        assert bronze["_corrupt_record"].count() == 2
        assert silver.height == 842 - 4
        assert reports["silver.flights"].dropped == 4 + 2

    def test_airport_delay_knows_nothing_of_the_last_hour(self, flights):
        space, _ = flights
        flown, features = table(space, "silver.flights"), table(space, "gold.delay_features")
        some = features.sample(200, seed=0).join(
            flown.select("flight_id", "time_hour"), "flight_id"
        )
        for row in some.iter_rows(named=True):
            hour = row["time_hour"]
            known = flown.filter(
                pl.col("origin") == row["origin"],
                pl.col("departed").is_between(
                    hour - dt.timedelta(hours=2), hour - dt.timedelta(hours=1), closed="left"
                ),
            )
            assert row["airport_delay"] == pytest.approx(known["dep_delay"].mean() or 0)

    def test_no_feature_has_gaps(self, flights):
        space, _ = flights
        features = table(space, "gold.delay_features").drop("arr_delay")
        assert sum(features.null_count().row(0)) == 0

    def test_the_fleet_beats_the_mean(self, flights):
        space, _ = flights
        trained = train(space.models["delay"], space.lake, workers=2)
        assert trained.metrics["segments_ok"] > 150
        assert trained.metrics["mae"] < 0.95 * trained.metrics["baseline_mae"]


class TestEnergy:
    def test_a_day_is_the_same_whatever_else_lands(self, tmp_path):
        land = landing("energy")
        land(tmp_path / "few", meters=20, days=2, until=UNTIL)
        land(tmp_path / "many", meters=50, days=5, until=UNTIL)
        few, many = (
            pl.read_parquet(tmp_path / name / "readings" / "2014-11-30.parquet")
            for name in ("few", "many")
        )
        assert few.schema == {
            "meter_id": pl.String,
            "read_at": pl.Datetime("us", "UTC"),
            "kwh": pl.Float64,
        }
        assert few.equals(many.filter(pl.col("meter_id") <= "M00020"))
        before = files(tmp_path / "few")
        land(tmp_path / "few", meters=20, days=2, until=UNTIL)
        assert before == files(tmp_path / "few")

    def test_readings_get_lost(self, tmp_path):
        count = landing("energy")(tmp_path, meters=300, days=3, until=dt.date(2014, 6, 3))
        rows = pl.read_parquet(tmp_path / "readings" / "*.parquet")
        assert rows.height == count
        there = rows["meter_id"].n_unique()
        assert 280 <= there < 300  # the others are put up in November
        assert 0.975 < count / (there * 3 * 48) < 0.995

    def test_days_are_those_of_the_market(self, tmp_path):
        landing("energy")(tmp_path, meters=5, days=1, until=dt.date(2014, 6, 1))
        read_at = pl.read_parquet(tmp_path / "readings" / "2014-06-01.parquet")["read_at"]
        assert read_at.min() == dt.datetime(2014, 5, 31, 14, tzinfo=dt.UTC)
        assert read_at.max() == dt.datetime(2014, 6, 1, 13, 30, tzinfo=dt.UTC)

    def test_a_day_outside_the_year_is_refused(self, tmp_path):
        with pytest.raises(SystemExit, match="2014"):
            landing("energy")(tmp_path, meters=5, days=3, until=dt.date(2014, 1, 2))

    def test_faults_are_dropped(self, energy):
        bronze, silver = table(energy, "bronze.readings"), table(energy, "silver.readings")
        good = bronze.filter(pl.col("kwh").is_between(0, 500, closed="left"))
        assert silver.height == good.height < bronze.height

    def test_lags_are_looked_up_by_time(self, energy):
        silver = table(energy, "silver.readings").select("meter_id", "read_at", "kwh")
        features = table(energy, "gold.load_features")
        for name, hours, other in (("lag_48", 24, 168), ("lag_336", 168, 24)):
            for column, back in (("first", hours), ("second", other)):
                moved = silver.with_columns(pl.col("read_at") + pl.duration(hours=back))
                moved = moved.rename({"kwh": column})
                features = features.join(moved, on=["meter_id", "read_at"], how="left")
            expected = features.select(pl.coalesce("first", "second")).to_series()
            assert features[name].equals(expected, check_names=False)
            assert (features["first"] == features[name]).mean() > 0.95
            features = features.drop("first", "second")

    def test_tomorrow_is_to_be_forecast(self, energy):
        features = table(energy, "gold.load_features")
        tomorrow = features.filter(
            pl.col("read_at") >= dt.datetime(2014, 11, 30, 14, tzinfo=dt.UTC)
        )
        assert tomorrow.height >= 40 * 48 * 0.9
        assert tomorrow["kwh"].count() == 0
        assert sum(features.drop("kwh").null_count().row(0)) == 0
        assert features.select("meter_id", "read_at").is_unique().all()

    def test_meter_days_add_up(self, energy):
        days, silver = table(energy, "gold.meter_days"), table(energy, "silver.readings")
        assert days["readings"].max() == 48
        assert days["readings"].sum() == silver.height
        assert days["kwh"].sum() == pytest.approx(silver["kwh"].sum())

    def test_the_fleet_beats_last_week(self, energy):
        trained = train(energy.models["load"], energy.lake, workers=2)
        assert trained.metrics["segments_ok"] >= 35
        assert trained.metrics["mae"] < 0.9 * trained.metrics["baseline_mae"]


@pytest.mark.heavy
def test_digits_are_decoded_learned_by_two_workers_and_read_by_stock_mlflow(tmp_path):
    pytest.importorskip("skorch")
    import mlflow

    folder = tmp_path / "digits"
    write_template("digits", folder, "digits")
    land = landing("digits")
    assert land(folder / "landing") == 1500
    (folder / "landing" / "images" / "9999.png").write_bytes(b"no picture")
    with Workspace.open(folder) as space:
        tables = refreshed(space)
        assert tables["silver.images"].dropped == 1
        (report,) = space.train()
        assert report.status == "trained", report.error
        assert report.metrics["accuracy"] > 0.95
        assert report.metrics["baseline_accuracy"] < 0.2
        # Images whose digit nobody told.
        land(folder / "landing", 1500)
        refreshed(space)
        (scored,) = space.score()
        assert scored.rows == 1797, scored.error
        truth = runpy.run_path(str(TEMPLATES / "digits" / "land.py"))["load_digits"]().target
        read = table(space, "gold.digit_predictions").filter(pl.col("image") >= "1500")
        right = [
            truth[int(image)] == int(said)
            for image, said in read.select("image", "prediction").rows()
        ]
        assert len(right) == 297
        assert sum(right) / len(right) > 0.9
        mlflow.set_tracking_uri(space.tracker.uri)
        pixels = table(space, "gold.digits").drop("image", "digit").head(20)
        found = mlflow.pyfunc.load_model(f"models:/digit/{report.version}").predict(
            pixels.to_pandas()
        )
        ours = space.tracker.fleet("digit").predict(pixels.to_arrow())["prediction"]
        assert list(found) == ours.to_pylist()
