"""Silver: typed, cleaned, and joined to the weather of the hour."""

from pyspark import pipelines as dp
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

import shoal

spark: SparkSession  # given by the pipeline


@dp.materialized_view(name="silver.weather", comment="One row per airport and hour")
def weather() -> DataFrame:
    measured = ("temp", "humid", "wind_speed", "precip", "pressure", "visib")
    return (
        spark.read.table("bronze.weather")
        .groupBy("origin", "time_hour")
        .agg(*(F.avg(column).alias(column) for column in measured))
    )


@dp.table(name="silver.flights", comment="Flights that left, with the weather of the hour")
@shoal.expect_or_drop("readable", "_corrupt_record IS NULL AND flight_id IS NOT NULL")
@shoal.expect_or_drop("departed", "dep_delay IS NOT NULL")
@shoal.expect("arrived", "arr_delay IS NOT NULL")
@shoal.expect("weather_known", "temp IS NOT NULL")
def flights() -> DataFrame:
    # The hour it was planned for, the carrier and the number name a flight.
    scheduled = F.date_format("time_hour", "yyyyMMddHH")
    flown = (
        spark.readStream.table("bronze.flights")
        .withColumn("flight_id", F.concat_ws("-", scheduled, "carrier", F.col("flight")))
        .withColumn("date", F.make_date("year", "month", "day"))
        .drop("year", "month", "day", "file_path", "ingested_at")
    )
    return flown.join(spark.read.table("silver.weather"), ["origin", "time_hour"], "left")
