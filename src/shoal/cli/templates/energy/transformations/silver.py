"""Silver: readings that can be true."""

from pyspark import pipelines as dp
from pyspark.sql import DataFrame, SparkSession

import shoal

spark: SparkSession  # given by the pipeline


@dp.table(name="silver.readings", comment="Readings without faults")
@shoal.expect_or_drop("named", "meter_id IS NOT NULL AND read_at IS NOT NULL")
@shoal.expect_or_drop("not_negative", "kwh >= 0")
@shoal.expect_or_drop("plausible", "kwh < 500")  # a megawatt; a counter that ran over says 9999
@shoal.expect("on_the_half_hour", "unix_timestamp(read_at) % 1800 = 0")
def readings() -> DataFrame:
    return spark.readStream.table("bronze.readings").select(
        "meter_id", "read_at", "kwh", "source_file"
    )
