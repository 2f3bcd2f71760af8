"""Models as a project declares them: files below ``models/``, run by name, gone afterwards."""

import subprocess
import sys
import textwrap

import numpy as np
import pyarrow as pa
import pytest

from shoal.errors import ModelError, ProjectError
from shoal.models import Fleet, collecting_models, model
from shoal.training import train
from shoal.training.fingerprint import member_fingerprint
from shoal.training.source import open_source
from shoal.workspace import Workspace

HELPERS = """
def more(alpha):
    return alpha + 1
"""

MODELS = """
import numpy as np
import shoal
from chores import more
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

ALPHA = 2.0


def scaled(*, alpha):
    return make_pipeline(StandardScaler(), Ridge(alpha=more(alpha) * np.sqrt(ALPHA)))


class Level(RegressorMixin, BaseEstimator):
    def fit(self, features, target):
        self.level_ = float(np.mean(target))
        return self

    def predict(self, features):
        return np.full(len(features), self.level_)


@shoal.model(table="gold.sales", target="y", by=["region", "store"], time="day", interval=0.8)
def price(alpha: float = 1.0):
    return scaled(alpha=alpha)


@shoal.model(table="gold.sales", target="y", by=["store"], time="day")
def level():
    return Level()
"""


def sales(rows: int = 600) -> pa.Table:
    random = np.random.default_rng(0)
    store = random.integers(0, 6, rows)
    x = random.normal(size=rows)
    return pa.table(
        {
            "region": store // 3,
            "store": [f"s{i}" for i in store],
            "day": np.arange(rows),
            "x": x,
            "y": x * store + 0.1 * random.normal(size=rows),
        }
    )


@pytest.fixture
def workspace(tmp_path):
    (tmp_path / "models").mkdir()
    (tmp_path / "spark-pipeline.yml").write_text("name: shop\nstorage: lake\nlibraries: []\n")
    (tmp_path / "chores.py").write_text(HELPERS)
    (tmp_path / "models" / "price.py").write_text(MODELS)
    with Workspace.open(tmp_path) as opened:
        opened.lake.table("gold.sales").append(sales())
        yield opened
    sys.modules.pop("chores", None)


def test_helpers_travel_to_the_workers_and_back_into_predictions(workspace) -> None:
    (report,) = workspace.train(["price"])
    assert (report.status, report.metrics["segments_ok"]) == ("trained", 6), report.error
    (scored,) = workspace.score(["price"])
    assert (scored.status, scored.rows, scored.fallbacks) == ("scored", 600, 0), scored.error
    rows = workspace.lake.table("gold.price_predictions").scan().collect()
    assert (rows["prediction_lower"] < rows["prediction"]).all()
    assert (rows["prediction_upper"] > rows["prediction"]).all()


def test_a_running_server_makes_the_same_predictions_table(workspace, tmp_path) -> None:
    workspace.train(["price"])
    workspace.score(["price"])
    table = workspace.lake.table("gold.price_predictions")
    here = table.scan().drop("scored_at").collect()
    run = "from shoal.cli import main; main()"
    command = [sys.executable, "-c", run, "serve", "price", "--port", "0"]
    with subprocess.Popen(
        [*command, "--project", str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        try:
            said = next(line for line in server.stdout if line.startswith("Serving at"))
            url = said.split()[2]
            (report,) = workspace.score(["price"], everything=True, url=url)
            assert (report.status, report.rows) == ("scored", 600), report.error
            (again,) = workspace.score(["price"], url=url)
            (other,) = workspace.score(["price@nobody"], url=url)
        finally:
            server.terminate()
    there = table.scan().drop("scored_at").collect()
    assert there.schema == here.schema
    assert there.equals(here)
    assert again.status == "current"
    assert other.status == "failed"
    assert "does not serve 'price@nobody'" in (other.error or "")


def test_training_again_fits_what_changed_and_makes_no_run_for_nothing(workspace) -> None:
    (first,) = workspace.train(["price"])
    runs = len(workspace.tracker.runs())
    (report,) = workspace.train(["price"], alias="challenger")
    assert (report.status, report.version) == ("current", first.version), report.error
    assert report.reason == "nothing changed since version 1"
    assert len(workspace.tracker.runs()) == runs
    assert workspace.tracker.resolve("price@challenger").version == 1
    more = sales(12).set_column(2, "day", pa.array(range(600, 612)))
    workspace.lake.table("gold.sales").append(more.filter(pa.compute.field("store") == "s3"))
    (report,) = workspace.train(["price"])
    assert report.reason == "asked for: 1 of 6 segments fitted, 5 carried over", report.error
    assert (report.metrics["segments_carried"], report.version) == (5, 2)
    fleet = workspace.tracker.fleet("price/2")
    assert fleet.predict(sales(), interval=True)["prediction_upper"].null_count == 0
    assert workspace.tracker.resolve("price@champion").version == 2
    (report,) = workspace.train(["price"], segments=["0,s1"])
    assert report.reason == "asked for: 1 of 6 segments fitted, 5 carried over", report.error
    (report,) = workspace.train(["price"], everything=True)
    assert report.metrics["segments_fitted"] == 6
    assert report.reason == "asked for: all 6 segments fitted"
    with pytest.raises(ProjectError, match="Segments are those of one model"):
        workspace.train(segments=["0,s1"])


def test_segments_fitted_alone_leave_the_model_behind(workspace) -> None:
    workspace.train(["price"])
    more = sales(12).set_column(2, "day", pa.array(range(600, 612)))
    workspace.lake.table("gold.sales").append(more)
    (alone,) = workspace.train(["price"], segments=["0,s1"])
    assert alone.reason == "asked for: 1 of 6 segments fitted, 5 carried over", alone.error
    changed = len(set(more["store"].to_pylist())) - 1
    for expected in ("trained", "current"):
        (report,) = (m for m in workspace.learn(()).models if m.model == "price")
        assert report.status == expected, report
        if expected == "trained":
            assert report.reason.startswith("gold.sales is at version 1, it saw 0: ")
            assert report.metrics["segments_fitted"] == changed


@pytest.mark.parametrize(
    ("model", "file", "old", "new"),
    [
        ("price", "chores.py", "alpha + 1", "alpha + 20"),  # of another size: bytecode knows it
        ("price", "models/price.py", "ALPHA = 2.0", "ALPHA = 3.0"),
        ("price", "models/price.py", "np.sqrt(ALPHA)", "np.cbrt(ALPHA)"),
        ("level", "models/price.py", "np.mean(target)", "np.median(target)"),  # in its class
    ],
)
def test_code_that_a_function_reaches_is_part_of_its_definition(
    workspace, model, file, old, new
) -> None:
    def printed() -> str:
        with Workspace.open(workspace.project.root) as opened:
            declaration = opened.models[model]
            return member_fingerprint(declaration, open_source(declaration, opened.lake, None))

    before = printed()
    assert printed() == before
    path = workspace.project.root / file
    text = path.read_text()
    path.write_text(f"# moved down\n{text}")
    assert printed() == before
    path.write_text(text.replace(old, new))
    sys.modules.pop("chores")
    after = printed()
    assert after[:16] != before[:16]
    assert after[16:] == before[16:]


def test_a_class_in_a_models_file_goes_along_as_source_that_needs_trust(workspace) -> None:
    (report,) = workspace.train(["level"])
    assert report.status == "trained", report.error
    (scored,) = workspace.score(["level"])  # the project has that very code
    assert scored.status == "scored", scored.error
    folder = workspace.tracker.fleet_folder(workspace.tracker.resolve("level"))
    with pytest.raises(ModelError, match="SHOAL_TRUSTED_MODULES"):
        Fleet.open(folder).predict(sales())


def test_an_importable_class_is_opened_by_those_who_trust_it(
    tmp_path, monkeypatch, workspace
) -> None:
    (tmp_path / "levels.py").write_text(
        MODELS.split("@shoal", maxsplit=1)[0].replace("import shoal", "")
    )
    monkeypatch.syspath_prepend(tmp_path)
    import levels

    with collecting_models() as found:
        model(table="gold.sales", target="y", by=["store"], time="day", name="own")(levels.Level)
    trained = train(found[0], workspace.lake, workers=1)
    with pytest.raises(ModelError, match="export SHOAL_TRUSTED_MODULES=levels"):
        Fleet.open(trained.artifact).predict(trained.input_example)
    monkeypatch.setenv("SHOAL_TRUSTED_MODULES", "other, levels")
    assert Fleet.open(trained.artifact).predict(trained.input_example)["prediction"].null_count == 0
    sys.modules.pop("levels")


def test_workers_start_without_pandas_and_can_import_it_later() -> None:
    script = """
        import sys
        from shoal.training.worker import _import_all
        _import_all(["sklearn.linear_model", "no_such_module"])
        assert "sklearn.linear_model" in sys.modules
        assert "pandas" not in sys.modules
        import pandas
        from sklearn.linear_model import Ridge
        frame = pandas.DataFrame({"x": [1.0, 2.0, 3.0]})
        assert Ridge().fit(frame, [1.0, 2.0, 3.0]).feature_names_in_.tolist() == ["x"]
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True, timeout=120)
