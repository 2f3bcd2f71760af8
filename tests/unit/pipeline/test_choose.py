"""Choosing the tables of a run by name, by pattern, and with what they are made from."""

import pytest

from projects import SmallProject
from shoal.errors import PipelineError


@pytest.fixture
def project(project) -> SmallProject:
    project.sql("""
        CREATE STREAMING TABLE bronze.a AS
            SELECT * FROM STREAM read_files('landing', format => 'json', schema => 'x INT');
        CREATE TEMPORARY VIEW seen AS SELECT * FROM bronze.a;
        CREATE MATERIALIZED VIEW silver.b AS SELECT * FROM seen;
        CREATE MATERIALIZED VIEW silver.c AS SELECT * FROM bronze.a;
        CREATE MATERIALIZED VIEW gold.d AS SELECT * FROM silver.b;
    """)
    project.land("1.json", [{"x": 1}])
    return project


def test_until_takes_all_that_a_table_is_made_from(project) -> None:
    assert set(project.ok(until=["gold.d"])) == {"bronze.a", "silver.b", "gold.d"}


def test_patterns_take_what_they_match(project) -> None:
    project.ok()
    assert set(project.ok(select=["silver.*"])) == {"silver.b", "silver.c"}
    rebuilt = project.ok(full_refresh=["*.d"])
    assert rebuilt["gold.d"].refresh == "full"
    with pytest.raises(PipelineError, match=r"No table matches 'copper\.\*'"):
        project.plan(select=["copper.*"])
    with pytest.raises(PipelineError, match="declares no 'gold.x'"):
        project.plan(until=["gold.x"])
