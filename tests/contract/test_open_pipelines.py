"""Sources that know nothing of Shoal mean the same to pyspark's own command and to Shoal.

pyspark's own loader (``pyspark.pipelines.cli``: its specification reader, its glob matching, its
import of source files) registers the project into a registry that only writes down what it is
told. Shoal's graph of the same files must have the same datasets, flows and places.
"""

from pathlib import Path

from pyspark.pipelines import cli
from pyspark.pipelines.flow import AutoCdcFlow, Flow
from pyspark.pipelines.graph_element_registry import (
    GraphElementRegistry,
    graph_element_registration_context,
)
from pyspark.pipelines.output import Output, Table

from projects import SmallProject
from shoal.pipeline import Kind, analyse, load_sources
from shoal.project import find_project

BRONZE = """
from pyspark import pipelines as dp
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

spark: SparkSession


@dp.table(name="bronze.events", comment="as landed", partition_cols=["kind"],
          table_properties={"quality": "bronze"})
def events() -> DataFrame:
    return spark.readStream.format("json").schema("id BIGINT, kind STRING").load("landing")


@dp.table
def named_by_its_function() -> DataFrame:
    return spark.readStream.table("bronze.events")


@dp.temporary_view(name="some")
def view():
    return spark.read.table("bronze.events").where("id > 1")


@dp.materialized_view(name="gold.kinds", schema="kind STRING, n BIGINT")
def kinds():
    return spark.read.table("some").groupBy("kind").agg(F.count("*").alias("n"))


dp.create_streaming_table("silver.all")


@dp.append_flow(target="silver.all", name="one")
def one():
    return spark.readStream.table("bronze.events")


@dp.append_flow(target="silver.all")
def two():
    return spark.readStream.table("named_by_its_function")
"""
SQL = """
CREATE MATERIALIZED VIEW gold.total AS SELECT sum(n) AS n FROM gold.kinds;
"""


class Written(GraphElementRegistry):
    """Writes down what pyspark's decorators register."""

    def __init__(self) -> None:
        self.outputs: list[Output] = []
        self.flows: list[Flow] = []
        self.sql: list[tuple[str, str]] = []

    def register_output(self, output: Output) -> None:
        self.outputs.append(output)

    def register_flow(self, flow: Flow) -> None:
        self.flows.append(flow)

    def register_auto_cdc_flow(self, flow: AutoCdcFlow) -> None:
        raise NotImplementedError

    def register_sql(self, sql_text: str, file_path: Path) -> None:
        self.sql.append((str(file_path), sql_text))


def open_project(folder: Path, engine) -> SmallProject:
    project = SmallProject(folder, engine)
    (project.root / "transformations" / "deep").mkdir()
    (project.root / "transformations" / "deep" / "bronze.py").write_text(BRONZE)
    (project.root / "transformations" / "gold.sql").write_text(SQL)
    project.land("1.json", [{"id": 1, "kind": "a"}, {"id": 2, "kind": "b"}, {"id": 3, "kind": "b"}])
    return project


def by_pyspark(root: Path, spark) -> Written:
    """As ``spark-pipelines run`` does it, up to the registering."""
    path = cli.find_pipeline_spec(root / "transformations")
    assert path.parent == root
    registry = Written()
    with graph_element_registration_context(registry):
        cli.register_definitions(path, registry, cli.load_pipeline_spec(path), spark, "run-1")
    return registry


def test_the_same_sources_give_the_same_graph(tmp_path, engine) -> None:
    project = open_project(tmp_path / "p", engine)
    spark_side = by_pyspark(project.root, engine.spark)
    found = find_project(project.root)
    registry = load_sources(
        found.transformations(), spark=engine.spark, lake=project.lake, root=project.root
    )
    kinds = {
        "StreamingTable": Kind.STREAMING_TABLE,
        "MaterializedView": Kind.MATERIALIZED_VIEW,
        "TemporaryView": Kind.TEMPORARY_VIEW,
    }
    assert len(spark_side.outputs) == 5
    for output in spark_side.outputs:
        dataset = registry.datasets[project.lake.name(output.name)]
        assert dataset.kind is kinds[type(output).__name__]
        assert dataset.comment == output.comment
        place = output.source_code_location
        assert dataset.location == (
            f"{Path(place.filename).relative_to(project.root)}:{place.line_number}"
        )
        if isinstance(output, Table):
            assert dataset.partition_by == tuple(output.partition_cols or ())
            assert dataset.properties == dict(output.table_properties)
            assert dataset.schema == output.schema
    python_flows = [flow for flow in registry.flows if not isinstance(flow.query, str)]
    assert sorted((flow.name, str(flow.target)) for flow in python_flows) == sorted(
        (flow.name, str(project.lake.name(flow.target))) for flow in spark_side.flows
    )
    assert [text for _, text in spark_side.sql] == [SQL]
    graph = analyse(registry, lake=project.lake, root=project.root)
    assert {str(n): sorted(map(str, node.upstream)) for n, node in graph.nodes.items()} == {
        "bronze.events": [],
        "default.named_by_its_function": ["bronze.events"],
        "default.some": ["bronze.events"],
        "gold.kinds": ["default.some"],
        "gold.total": ["gold.kinds"],
        "silver.all": ["bronze.events", "default.named_by_its_function"],
    }


def test_the_specification_means_the_same(tmp_path, engine) -> None:
    project = open_project(tmp_path / "p", engine)
    path = project.root / "spark-pipeline.yml"
    path.write_text(
        f"name: n\nstorage: {tmp_path / 'lake'}\ncatalog: main\nschema: raw\n"
        "configuration:\n  a: b\nlibraries:\n  - glob: {include: transformations/**}\n"
    )
    theirs, ours = cli.load_pipeline_spec(path), find_project(project.root).spec
    assert (ours.name, ours.storage, ours.catalog) == (theirs.name, theirs.storage, theirs.catalog)
    assert ours.schema == theirs.database
    assert dict(ours.configuration) == dict(theirs.configuration)
    shown = [f"{pattern}/*" if pattern.endswith("/**") else pattern for pattern in ours.libraries]
    assert shown == [library.include for library in theirs.libraries]


def test_the_open_sources_run(tmp_path, engine) -> None:
    project = open_project(tmp_path / "p", engine)
    project.ok()
    assert project.rows("gold.kinds", "kind", "n") == [("b", 2)]  # id 1 is not in the view
    assert project.rows("gold.total", "n") == [2]
    assert project.rows("silver.all", "id") == [1, 1, 2, 2, 3, 3]
    assert "shoal" not in BRONZE + SQL


def test_names_that_databricks_adds_are_there_only_while_sources_load(tmp_path, engine) -> None:
    from pyspark import pipelines

    before = set(dir(pipelines))
    project = SmallProject(tmp_path / "p", engine)
    project.python("""
        assert dp.expect and dp.expect_all_or_fail

        @dp.materialized_view(name="t")
        @dp.expect("a", "x > 0")
        def t():
            return spark.sql("SELECT 1 AS x")
    """)
    assert project.ok()["default.t"].expectations["a"]["passed"] == 1
    assert set(dir(pipelines)) == before
