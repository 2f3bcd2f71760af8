"""A model is trained again from what its run kept, in a real process, and compared."""

import io
import json
import shutil
import subprocess
import sys
import zipfile

import numpy as np
import pyarrow as pa
import pytest

from fleets import CONTEXT, trained_fleet
from shoal.errors import ModelError, TrackingError
from shoal.tracking.code import changed_environment, code_files
from shoal.workspace import Workspace
from shoal.workspace.reproduce import reproduce

CHORES = "FACTOR = 2.0\n"
MODELS = """
import shoal
from chores import FACTOR
from lightgbm import LGBMRegressor
from sklearn.ensemble import HistGradientBoostingRegressor, RandomForestRegressor
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from xgboost import XGBRegressor

SHOP = {"table": "gold.sales", "target": "y", "by": ["region", "store"], "time": "day"}

@shoal.model(**SHOP)
def price(alpha: float = 1.0):
    return make_pipeline(StandardScaler(), Ridge(alpha=alpha * FACTOR))

@shoal.model(**SHOP, min_rows=20)
def trees():
    return HistGradientBoostingRegressor(max_iter=4, random_state=0)

@shoal.model(**SHOP)
def chance():
    return RandomForestRegressor(n_estimators=3)

@shoal.model(**SHOP, search=shoal.Search(trials=4, per="segment", space={"alpha": [0.01, 1.0, 100.0]}))
def searched(alpha: float = 1.0):
    return make_pipeline(StandardScaler(), Ridge(alpha=alpha * FACTOR))

@shoal.model(**SHOP)
def leaves():
    return LGBMRegressor(n_estimators=5, n_jobs=1, verbose=-1)

@shoal.model(table="gold.sales", target="y", time="day")
def all_of_it():
    return XGBRegressor(n_estimators=5, n_jobs=1)
"""


def sales(rows: int = 400, seed: int = 0, stores: int = 4) -> pa.Table:
    random = np.random.default_rng(seed)
    store = random.integers(0, stores, rows)
    x = random.normal(size=rows)
    return pa.table(
        {
            "region": [f"r{s % 2}" for s in store],
            "store": [f"s{s}" for s in store],
            "day": random.integers(0, 90, rows),
            "x": x,
            "y": (store + 1) * x + random.normal(size=rows),
        }
    )


def git(folder, *arguments) -> None:
    subprocess.run(["git", "-C", folder, "-c", "user.name=a", "-c", "user.email=a@b", *arguments],
                   check=True, capture_output=True)  # fmt: skip


@pytest.fixture
def project(tmp_path, request):
    """A project: in a folder of a repository with changes not committed, or in no repository."""
    plain = getattr(request, "param", "") == "plain"
    root = tmp_path / "work" / "shop"
    (root / "models").mkdir(parents=True)
    (root / "spark-pipeline.yml").write_text(
        f"name: shop\nstorage: {tmp_path / 'lake'}\nlibraries: []\n"
    )
    (root / "chores.py").write_text("FACTOR = 5.0\n")
    (root / "models" / "all.py").write_text(MODELS)
    if not plain:
        git(tmp_path / "work", "init", "-q")
        git(tmp_path / "work", "add", "-A")
        git(tmp_path / "work", "commit", "-qm", "x")
    (root / "chores.py").write_text(CHORES)
    with Workspace.open(root) as space:
        space.lake.table("gold.sales").append(sales())
    yield root
    sys.modules.pop("chores", None)


def train(root, *names, **options) -> list[str]:
    with Workspace.open(root) as space:
        reports = space.train(names, **options)
        sys.modules.pop("chores", None)
        assert all(r.status == "trained" for r in reports), reports
        return [f"{r.model}/{r.version}" for r in reports]


@pytest.mark.parametrize("project", ["repository", "plain"], indirect=True)
def test_every_member_is_the_same_though_the_code_has_moved_on(project) -> None:
    refs = train(project, "price", "trees", "leaves", "all_of_it", "searched")
    (project / "chores.py").write_text("FACTOR = 9.0\n")
    with Workspace.open(project) as space:
        for ref in refs:
            found = reproduce(space, ref)
            assert set(found.verdicts) == {"identical"}, found
            assert found.proven
            assert found.causes == ()
            assert found.environment == "same"
        versions = len(space.tracker.versions("price"))
        assert versions == 1  # nothing was registered
        run = space.tracker.run(found.run_id)
        assert "identical" in run.tags["shoal.reproduced"]
    if (project.parent / ".git").exists():
        said = subprocess.run(["git", "-C", project, "worktree", "list"], capture_output=True,
                              text=True, check=True).stdout  # fmt: skip
        assert len(said.splitlines()) == 1
        assert "uncommitted changes" in found.code


def test_carried_members_and_one_segment(project) -> None:
    (ref,) = train(project, "price")
    with Workspace.open(project) as space:
        some = sales(60, 1)
        space.lake.table("gold.sales").append(
            some.filter(pa.array([s == "s1" for s in some["store"].to_pylist()]))
        )
    (ref,) = train(project, "price")
    with Workspace.open(project) as space:
        found = reproduce(space, ref)
        assert set(found.verdicts) == {"identical"}, found
        one = reproduce(space, f"models:/{ref}", segments=["r1,s1"])
        assert one.verdicts == {"identical": 1}
        by_run = reproduce(space, found.run_id)
        assert by_run.verdicts == found.verdicts
        with pytest.raises(TrackingError, match="not all of the segments"):
            reproduce(space, ref, segments=["r9,s9"])


def test_a_composites_members_are_made_again_by_the_code_of_their_own_trainings(project) -> None:
    train(project, "price")
    (project / "chores.py").write_text("FACTOR = 7.0\n")
    train(project, "price", alias="challenger")
    (project / "chores.py").write_text("FACTOR = 9.0\n")
    with Workspace.open(project) as space:
        space.promote("price", segments=["r0,s0"])
        found = reproduce(space, "price@champion")
        assert set(found.verdicts) == {"identical"}
        assert found.code.count("commit") == 2  # one with changes, one without
        assert found.model == "models:/price/3"
        alone = reproduce(space, "price@champion", segments=["r0,s0"])
        assert alone.verdicts == {"identical": 1}


def test_chance_is_found_out(project) -> None:
    (ref,) = train(project, "chance")
    with Workspace.open(project) as space:
        found = reproduce(space, ref)
    assert found.verdicts["different"] > 0
    assert not found.proven
    assert "random_state" in found.causes[0]
    assert found.difference is not None
    assert found.difference > 1e-9


def recorded(space, ref: str, edit) -> None:
    """Changes what the run of a version says of its environment."""
    kept = space.tracker.kept(space.tracker.resolve(ref).run_id) / "environment.json"
    told = json.loads(kept.read_text())
    edit(told)
    text = json.dumps(told)
    space.tracker.receive(space.tracker.resolve(ref).run_id, "shoal/environment.json", text, {})


def test_each_cause_is_named(project, monkeypatch) -> None:
    (ref,) = train(project, "chance")

    def edit(told) -> None:
        told["packages"]["joblib"] = "0.0.1"
        told["processor"] = "another one"
        told["processors"] = 512
        told["threads"] = {"OMP_NUM_THREADS": "3"}

    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")  # recorded was none
    with Workspace.open(project) as space:
        recorded(space, ref, edit)
        found = reproduce(space, ref, segments=["r0,s0"], environment="current")
        assert [cause.split(" ")[0:2] for cause in found.causes] == [
            ["package:", "joblib"],
            ["hardware:", "processor"],
            ["thread", "count:"],
        ]
        assert "processors 512 ->" in found.causes[2]
        kept = space.tracker.kept(space.tracker.resolve(ref).run_id)
        text = json.loads((kept / "code.json").read_text())
        assert text["kept"] in ("commit", "patch")
        # The code of the day is not what the version's definition says it was.
        version = space.tracker.resolve(ref)
        space.tracker._client.set_model_version_tag(
            version.name, str(version.version), "shoal.fingerprint", "0" * 64
        )
        found = reproduce(space, ref, segments=["r0,s0"], environment="current")
        assert found.causes[0].startswith("code: ")


@pytest.mark.heavy
@pytest.mark.skipif(shutil.which("uv") is None, reason="uv is not on the path")
def test_other_packages_are_rebuilt_with_uv(project) -> None:
    """The recorded lock differs in a package that the training uses: it is put back, for real."""
    (ref,) = train(project, "price")
    with Workspace.open(project) as space:
        recorded(space, ref, lambda told: told["packages"].update(joblib="1.4.2"))
        found = reproduce(space, ref)
        assert found.environment == "rebuilt"
        assert set(found.verdicts) == {"identical"}
        recorded(space, ref, lambda told: told["packages"].update(joblib="0.0.0.1"))
        with pytest.raises(TrackingError, match=r"(?s)cannot be installed: .*joblib"):
            reproduce(space, ref, environment="rebuild")


def test_data_that_is_gone_is_named(project) -> None:
    (ref,) = train(project, "price")
    with Workspace.open(project) as space:
        for file in (space.lake.root / "gold/sales").glob("*.parquet"):
            file.unlink()
        found = reproduce(space, ref)
    assert set(found.verdicts) == {"gone"}
    assert found.causes[0].startswith("data: ")


def test_what_cannot_be_run_again_says_why(project, tmp_path) -> None:
    (ref,) = train(project, "price")
    with Workspace.open(project) as space:
        space.tracker.record(trained_fleet(tmp_path / "other", name="other"), CONTEXT)
        with pytest.raises(TrackingError):
            reproduce(space, "price/9")
        kept = space.tracker.kept(space.tracker.resolve(ref).run_id)
        assert kept is not None
        about = json.loads((kept / "code.json").read_text())
        assert about["kept"] == "patch"
    shutil.rmtree(project.parent / ".git")
    git(project.parent, "init", "-q")
    with Workspace.open(project) as space, pytest.raises(TrackingError, match="not in the rep"):
        reproduce(space, ref)


def test_a_run_of_another_tool_is_refused(project) -> None:
    import mlflow

    with Workspace.open(project) as space:
        train(project, "price")
        client = mlflow.MlflowClient(space.tracker.uri)
        run = client.create_run("0").info.run_id
        with pytest.raises(TrackingError, match="registered no model"):
            reproduce(space, run)


def test_code_that_needs_what_is_not_there_is_told(project) -> None:
    (project / "models" / "more.py").write_text(
        "import shoal\nfrom sklearn.linear_model import Ridge\n"
        '@shoal.model(table="gold.sales", target="y", by=["store"], time="day")\n'
        "def fickle():\n"
        "    import os\n"
        '    return Ridge(alpha=float(os.environ["ALPHA"]))\n'
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ALPHA", "1.0")
        (ref,) = train(project, "fickle")
    with Workspace.open(project) as space, pytest.raises(ModelError, match="ALPHA"):
        reproduce(space, ref)


def test_secrets_and_data_are_not_kept(tmp_path) -> None:
    for name in (".env", "secrets.toml", "key.pem", "data.csv", "model.py", ".hidden/x.py"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("x = 1\n")
    names = zipfile.ZipFile(io.BytesIO(code_files(tmp_path)["code.zip"])).namelist()
    assert names == ["model.py"]
    git(tmp_path, "init", "-q")
    git(tmp_path, "commit", "-q", "--allow-empty", "-m", "x")
    patch = code_files(tmp_path)["code.patch"].decode()
    assert "model.py" in patch
    for word in (".env", "secrets", "pem", "csv"):
        assert word not in patch


def test_a_project_that_the_repository_around_it_ignores_keeps_its_own_files(tmp_path) -> None:
    git(tmp_path, "init", "-q")
    (tmp_path / ".gitignore").write_text("demo/\n")
    git(tmp_path, "add", ".gitignore")
    git(tmp_path, "commit", "-q", "-m", "x")
    demo = tmp_path / "demo"
    demo.mkdir()
    (demo / "model.py").write_text("x = 1\n")
    found = code_files(demo)
    about = json.loads(found["code.json"])
    assert (about["commit"], about["folder"], about["kept"]) == (None, ".", "files")
    assert zipfile.ZipFile(io.BytesIO(found["code.zip"])).namelist() == ["model.py"]


def test_what_changed_of_an_environment() -> None:
    before = {"python": "3.11.7", "packages": {"a": "1", "b": "2"}, "processor": "x", "threads": {}}
    now = {"python": "3.12.0", "packages": {"a": "1", "c": "3"}, "processor": "y", "threads": {}}
    assert changed_environment(before, now) == [
        "Python 3.11.7 -> 3.12.0", "b 2 -> absent", "c absent -> 3", "processor x -> y",
    ]  # fmt: skip
    assert changed_environment(before, before) == []
