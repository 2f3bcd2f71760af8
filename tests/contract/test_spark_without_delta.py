"""A cluster that has no Delta Lake is told before anything is planned."""

from pathlib import Path

import pytest

from shoal.engines import connect
from shoal.engines.servers import spark_server
from shoal.engines.sparkhome import SparkHome
from shoal.errors import EngineError

pytestmark = pytest.mark.heavy


class Bare(SparkHome):
    """Apache Spark as it is downloaded."""

    def jars(self) -> list[Path]:
        return [jar for jar in super().jars() if "delta" not in jar.name]


def test_a_spark_without_delta_is_told_with_what_to_start_it_with() -> None:
    try:
        home = SparkHome.find()
    except EngineError as error:
        pytest.skip(str(error))
    nothing = {"spark.sql.extensions": "", "spark.sql.catalog.spark_catalog": "builtin"}
    server = spark_server(Bare(**vars(home)), settings=nothing)
    try:
        with pytest.raises(EngineError, match="has no Delta Lake") as caught:
            connect(server.url)
        assert "--packages io.delta:delta-spark_2.13" in (caught.value.hint or "")
    finally:
        server.stop()
