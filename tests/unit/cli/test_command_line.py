import ast
import json
import pkgutil
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import shoal
from shoal.cli import cli
from shops import Shops

HEAVY = {"pyspark", "pysail", "mlflow", "pandas", "polars", "deltalake", "sklearn", "starlette"}
HEAVY |= {"optuna", "hyperopt"}


def shell(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "shoal.cli", *arguments]
    return subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.parametrize("name", sorted(cli.commands))
def test_each_command_has_help_and_an_example(name):
    command = cli.commands[name]
    result = CliRunner().invoke(cli, [name, "--help"])
    assert result.exit_code == 0
    assert command.help and command.help.strip().splitlines()[0].endswith(".")
    assert f"Example:  shoal {name}" in result.output
    options = [p for p in command.params if isinstance(p, click.Option)]
    assert all(option.help for option in options)


def test_commands_are_listed_in_the_order_a_newcomer_needs():
    listed = list(cli.list_commands(click.Context(cli)))
    assert listed[:4] == ["demo", "init", "plan", "run"]
    assert set(listed) == set(cli.commands)


@pytest.mark.parametrize("statement", ["import shoal", "import shoal.cli", "import shoal.serving"])
def test_imports_load_no_heavy_library(statement):
    code = f"{statement}; import sys; print(*sorted(m.split('.')[0] for m in sys.modules))"
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert not HEAVY & set(found.stdout.split())


def test_root_exports_are_few_sorted_and_real():
    assert shoal.__all__ == sorted(shoal.__all__)
    assert len(shoal.__all__) <= 25
    for name in shoal.__all__:
        assert getattr(shoal, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = shoal.nothing


def test_every_room_lists_its_public_names():
    rooms = [m.name for m in pkgutil.iter_modules(shoal.__path__) if m.ispkg]
    assert {"lake", "engines", "pipeline", "workspace", "cli"} <= set(rooms)
    for room in rooms:
        tree = ast.parse((Path(shoal.__path__[0]) / room / "__init__.py").read_text())
        listed = [
            ast.literal_eval(node.value)
            for node in tree.body
            if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__"
        ]
        imported = {
            alias.asname or alias.name
            for node in tree.body
            if isinstance(node, ast.ImportFrom) and node.module != "__future__"
            for alias in node.names
        }
        assert listed and set(listed[0]) == imported, room


def test_outside_a_project_the_error_says_what_to_do(tmp_path):
    result = shell("plan", cwd=tmp_path)
    assert result.returncode == 2
    assert "There is no spark-pipeline.yml" in result.stderr
    assert "shoal init my_project" in result.stderr
    assert not result.stdout


def test_wrong_option_exits_with_2(tmp_path):
    result = shell("run", "--nothing", cwd=tmp_path)
    assert result.returncode == 2
    assert "--nothing" in result.stderr


def test_init_writes_a_project_and_keeps_existing_files(tmp_path):
    result = shell("init", "mine", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "mine/spark-pipeline.yml").read_text().startswith("name: mine\n")
    assert (tmp_path / "mine/models/delay.py").exists()
    (tmp_path / "mine/land.py").write_text("# mine now")
    again = shell("init", "mine", cwd=tmp_path)
    assert again.returncode == 2
    assert "not empty" in again.stderr
    assert (tmp_path / "mine/land.py").read_text() == "# mine now"


def test_version_as_json():
    found = json.loads(shell("version", "--json").stdout)
    assert found["shoal"] == shoal.__version__
    assert found["pysail"].startswith("0.7")


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli") / "sales"
    (folder / "transformations").mkdir(parents=True)
    (folder / "landing").mkdir()
    (folder / "spark-pipeline.yml").write_text(
        "name: sales\nstorage: lake\nlibraries: [{glob: {include: transformations/**}}]\n"
    )
    (folder / "transformations/sales.py").write_text(
        "from pyspark import pipelines as dp\n"
        "import shoal\n"
        '@dp.table(name="bronze.sales", comment="as landed")\n'
        '@shoal.expect_or_drop("positive", "amount > 0")\n'
        "def sales():\n"
        '    schema = "shop STRING, day DATE, size DOUBLE, amount DOUBLE"\n'
        '    return spark.readStream.format("json").schema(schema).load("landing")\n'
    )
    (folder / "models").mkdir()
    (folder / "models/amount.py").write_text(
        "from sklearn.linear_model import Ridge\n"
        "import shoal\n"
        '@shoal.model(table="bronze.sales", target="amount", by=["shop"], time="day", min_rows=5)\n'
        "def amount():\n"
        "    return Ridge()\n"
    )
    rows = [
        {"shop": s, "day": f"2024-01-{d:02}", "size": float(d % 7), "amount": 10.0 + d % 7 * 2.5}
        for s in ("a", "b")
        for d in range(1, 29)
    ]
    rows.append({"shop": "a", "day": "2024-01-29", "size": 1.0, "amount": -1.0})
    (folder / "landing/one.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    first = shell("run", "--json", cwd=folder)
    assert first.returncode == 0, first.stderr
    return folder, json.loads(first.stdout)


def test_run_refreshes_trains_and_scores(project):
    _, report = project
    assert [table["rows"] for table in report["tables"]] == [56]
    assert report["tables"][0]["expectations"]["positive"] == {
        "action": "drop",
        "passed": 56,
        "failed": 1,
    }
    assert report["models"][0]["status"] == "trained"
    assert report["models"][0]["metrics"]["segments_ok"] == 2
    assert report["scores"][0]["rows"] == 56


def test_a_second_run_writes_nothing(project):
    folder, _ = project
    before = json.loads(shell("tables", "--json", cwd=folder).stdout)
    again = shell("run", "--json", cwd=folder)
    assert again.returncode == 0, again.stderr
    report = json.loads(again.stdout)
    assert [table["status"] for table in report["tables"]] == ["unchanged"]
    assert [model["status"] for model in report["models"]] == ["current"]
    assert [score["status"] for score in report["scores"]] == ["current"]
    assert json.loads(shell("tables", "--json", cwd=folder).stdout) == before


def test_sql_reads_the_lake_and_refuses_to_write(project):
    folder, _ = project
    query = "SELECT shop, count(*) AS n FROM bronze.sales GROUP BY shop ORDER BY shop"
    rows = json.loads(shell("sql", query, "--json", cwd=folder).stdout)
    assert rows == [{"shop": "a", "n": 28}, {"shop": "b", "n": 28}]
    refused = shell("sql", "DROP TABLE bronze.sales", cwd=folder)
    assert refused.returncode == 1
    assert "no query" in refused.stderr
    unknown = shell("sql", "SELECT * FROM bronze.sale", cwd=folder)
    assert "Did you mean 'bronze.sales'?" in unknown.stderr


def test_history_names_the_inputs(project):
    folder, _ = project
    entries = json.loads(shell("history", "bronze.amount_predictions", "--json", cwd=folder).stdout)
    assert entries[0]["shoal.inputs"] == "bronze.sales@0"
    assert entries[0]["shoal.model"] == "models:/amount/1"


def test_unknown_model_and_table_name_the_nearest(project):
    folder, _ = project
    result = shell("train", "amout", cwd=folder)
    assert result.returncode == 2
    assert "Did you mean 'amount'?" in result.stderr
    result = shell("plan", "--select", "bronze.sale", cwd=folder)
    assert "Did you mean 'bronze.sales'?" in result.stderr


def test_an_error_is_printed_as_it_is_also_with_brackets(tmp_path):
    shops = Shops(tmp_path / "project")
    (shops.root / "models/sales.py").write_text(
        'import shoal\n\n\n@shoal.model(table="gold.sales", target="y", by=["shop"])\n'
        'def sales():\n    raise ValueError("mend [monitor] and [red] of shoal.toml")\n'
    )
    done = shell("train", cwd=shops.root)
    assert done.returncode == 1
    assert "mend [monitor] and [red] of shoal.toml" in " ".join(done.stdout.split())
