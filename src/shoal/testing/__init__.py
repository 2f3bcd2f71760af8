"""Tests of pipelines with plain pytest: *a test is a run over rows that it gives*.

`run` runs a project, a source file or declarations made in the test over in-memory rows, on the
real engine, in a lake of its own that goes with the result::

    from shoal.testing import run

    def test_flights_that_never_departed_are_dropped():
        result = run("my_project", {"bronze.flights": [{"id": 1, "dep_delay": None}]})
        assert result["silver.flights"].rows() == []
        assert result.expectations["silver.flights"]["departed"].failed == 1
"""

from shoal.testing.case import Source, load, run
from shoal.testing.result import Result, Rows
from shoal.testing.spark import session

__all__ = ["Result", "Rows", "Source", "load", "run", "session"]
