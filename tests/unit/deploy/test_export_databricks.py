"""``shoal export databricks``: the bundle is one, and its job does what it says.

The schema is made from Databricks' own typed models (the ``databricks-bundles`` package): fields,
types, what is required, values of enumerations. A workspace that deploys it is not here.
"""

import dataclasses
import enum
import json
import typing
import zipfile
from pathlib import Path

import jsonschema
import pytest
import yaml
from click.testing import CliRunner
from databricks.bundles.core import Variable
from databricks.bundles.jobs import Job
from databricks.bundles.model_serving_endpoints import ModelServingEndpoint
from databricks.bundles.pipelines import Pipeline

from projects import SmallProject
from shoal.cli import cli
from shoal.engines import connect
from shoal.workspace.databricks import main, run_step

KINDS = {"pipelines": Pipeline, "jobs": Job, "model_serving_endpoints": ModelServingEndpoint}
REFERENCE = {"type": "string", "pattern": r"^.*\$\{[\w.]+\}.*$"}
TABLES = """
@dp.materialized_view(name="gold.sales")
def sales():
    return spark.range(80).select(
        (F.col("id") % 2).alias("shop"), F.col("id").alias("n"), (F.col("id") * 2.0).alias("y"))
"""
MODEL = """
import shoal
from sklearn.linear_model import Ridge

@shoal.model(table="gold.sales", target="y", by=["shop"], time="n", features=["n"], key=["n"])
def ridge():
    return Ridge()
"""


def schema_of(kind, known) -> dict[str, typing.Any]:
    """A JSON schema of a typed model."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is typing.Any:
        return {}
    if origin is Variable or kind is Variable:
        return REFERENCE
    if origin is list:
        return {"type": "array", "items": schema_of(arguments[0], known)}
    if origin is dict:
        return {"type": "object", "additionalProperties": schema_of(arguments[1], known)}
    if arguments:
        parts = [schema_of(part, known) for part in arguments if part is not type(None)]
        return {"anyOf": parts}
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return {"enum": [member.value for member in kind]}
    if dataclasses.is_dataclass(kind):
        if kind.__name__ not in known:
            known[kind.__name__] = {}
            hints = typing.get_type_hints(kind)
            fields = dataclasses.fields(kind)
            known[kind.__name__].update(
                type="object",
                additionalProperties=False,
                properties={field.name: schema_of(hints[field.name], known) for field in fields},
                required=[
                    field.name
                    for field in fields
                    if field.default is dataclasses.MISSING
                    and field.default_factory is dataclasses.MISSING
                ],
            )
        return {"$ref": f"#/$defs/{kind.__name__}"}
    names = {str: "string", bool: "boolean", int: "integer", float: "number"}
    return {"type": names[kind]}


@pytest.fixture(scope="module")
def schema() -> dict[str, typing.Any]:
    known: dict[str, typing.Any] = {}
    resources = {
        name: {"type": "object", "additionalProperties": schema_of(kind, known)}
        for name, kind in KINDS.items()
    }
    text = {"type": "string"}
    variable = {"type": "object", "properties": {"description": text, "default": text}}
    target = {
        "type": "object",
        "properties": {
            "mode": {"enum": ["development", "production"]},
            "default": {"type": "boolean"},
        },
        "additionalProperties": False,
    }
    return {
        "type": "object",
        "properties": {
            "bundle": {"type": "object", "properties": {"name": text}, "required": ["name"]},
            "variables": {"type": "object", "additionalProperties": variable},
            "resources": {"type": "object", "properties": resources, "additionalProperties": False},
            "targets": {"type": "object", "additionalProperties": target},
        },
        "required": ["bundle", "resources"],
        "additionalProperties": False,
        "$defs": known,
    }


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> tuple[SmallProject, Path]:
    root = tmp_path_factory.mktemp("project")
    project = SmallProject(root / "p")
    project.python(TABLES)
    project.sql("CREATE MATERIALIZED VIEW gold.total AS SELECT sum(y) AS y FROM gold.sales;")
    project.land("1.json", [{"secret": 1}])
    (project.root / "models").mkdir()
    (project.root / "models/ridge.py").write_text(MODEL)
    (project.root / "helper.py").write_text("X = 1\n")
    out = root / "out"
    for _ in range(2):  # an earlier export is replaced
        done = CliRunner().invoke(
            cli,
            ["export", "databricks", "--project", str(project.root), "--out", str(out), "--json"],
        )
        assert done.exit_code == 0, done.output
    told = json.loads(done.output)
    assert told["resources"] == {
        "pipelines": ["small"], "jobs": ["small"], "model_serving_endpoints": ["ridge"],
    }  # fmt: skip
    return project, out


def test_the_bundle_is_valid(exported, schema) -> None:
    bundle = yaml.safe_load((exported[1] / "databricks.yml").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(bundle, schema, cls=jsonschema.Draft202012Validator)
    for kind, model in KINDS.items():  # and the models themselves take it
        for value in bundle["resources"][kind].values():
            assert model.from_dict(value).as_dict()


@pytest.mark.parametrize(
    "change",
    [
        lambda r: r["pipelines"]["small"].update(librarys=[]),
        lambda r: r["jobs"]["small"]["tasks"][0].pop("task_key"),
        lambda r: r["jobs"]["small"]["schedule"].update(pause_status="SLEEPING"),
        lambda r: r["model_serving_endpoints"]["ridge"].update(name=3),
    ],
)
def test_the_schema_refuses_what_is_wrong(exported, schema, change) -> None:
    bundle = yaml.safe_load((exported[1] / "databricks.yml").read_text())
    change(bundle["resources"])
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(bundle, schema)


def test_every_file_that_it_names_is_there(exported) -> None:
    _project, out = exported
    bundle = yaml.safe_load((out / "databricks.yml").read_text())
    pipeline = bundle["resources"]["pipelines"]["small"]
    globs = [library["glob"]["include"] for library in pipeline["libraries"]]
    assert sorted(globs) == ["./src/transformations/tables.py", "./src/transformations/tables.sql"]
    (wheel,) = pipeline["environment"]["dependencies"]
    job = bundle["resources"]["jobs"]["small"]
    steps = {task["task_key"]: task for task in job["tasks"]}
    assert list(steps) == ["tables", "train_ridge", "score_ridge"]
    assert steps["score_ridge"]["depends_on"] == [{"task_key": "train_ridge"}]
    files = [*globs, wheel, steps["train_ridge"]["spark_python_task"]["python_file"]]
    assert all((out / file).is_file() for file in files)
    names = zipfile.ZipFile(out / wheel).namelist()
    info = next(name for name in names if name.endswith("METADATA"))
    required = zipfile.ZipFile(out / wheel).read(info).decode()
    assert "Requires-Dist: mlflow" in required
    assert "pyspark-client" not in required
    assert (out / "src/helper.py").exists()
    assert not (out / "src/landing").exists(), "data stays"


def test_the_steps_train_and_score(exported, tmp_path, monkeypatch) -> None:
    _project, out = exported
    lake = tmp_path / "volume"
    settings = out / "src/shoal.toml"  # no Databricks answers here
    settings.write_text(settings.read_text().replace('tracking = "databricks"\n', ""))
    monkeypatch.chdir(tmp_path)  # where the catalog of this session keeps tables
    with connect() as engine:
        spark = engine.spark
        spark.sql("CREATE SCHEMA IF NOT EXISTS gold").collect()
        spark.range(80).selectExpr("id % 2 AS shop", "id AS n", "id * 2.0D AS y").write.saveAsTable(
            "gold.sales"
        )
        where = {"catalog": "", "lake": str(lake), "project": out / "src"}
        assert run_step(spark, "train", "ridge", **where) == "ridge: trained, version 1"
        assert run_step(spark, "score", "ridge", **where) == "ridge: scored, 80 rows"
    with pytest.raises(SystemExit):
        main(["forget", "ridge"])


def test_a_folder_with_something_else_is_left_alone(exported, tmp_path) -> None:
    (tmp_path / "mine.txt").write_text("x")
    done = CliRunner().invoke(
        cli, ["export", "databricks", "--project", str(exported[0].root), "--out", str(tmp_path)]
    )
    assert done.exit_code == 2 or done.exit_code == 1
    assert "is not empty" in done.output
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
