"""Silver: typed, cleaned, and joined to the weather of the hour and the register of planes."""

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
        .where("_corrupt_record IS NULL")
        .groupBy("origin", "time_hour")
        .agg(*(F.avg(column).alias(column) for column in measured))
    )


@dp.table(name="silver.flights", comment="Flights that left, with the weather of the hour")
@shoal.expect_or_drop("readable", "_corrupt_record IS NULL AND flight_id IS NOT NULL")
@shoal.expect_or_drop("departed", "departed IS NOT NULL")  # the others were cancelled
@shoal.expect("arrived", "arr_delay IS NOT NULL")
@shoal.expect("weather_known", "temp IS NOT NULL")
def flights() -> DataFrame:
    # Only the new flights are streamed. The weather is looked up as it is now, so a month's
    # weather should land no later than its flights; weather_known counts those without.
    flights = spark.readStream.table("bronze.flights")
    weather = spark.read.table("silver.weather")
    planes = spark.read.table("bronze.planes").select(
        "tailnum", "seats", F.col("year").alias("built")
    )
    return (
        flights.join(weather, ["origin", "time_hour"], "left")
        .join(planes, "tailnum", "left")
        .select(
            # Planned day, planned time, carrier and number name a flight.
            F.concat(
                F.date_format(F.make_date("year", "month", "day"), "yyyyMMdd"),
                F.lpad(F.col("sched_dep_time").cast("string"), 4, "0"),
                F.lit("-"),
                "carrier",
                F.lit("-"),
                F.col("flight").cast("string"),
            ).alias("flight_id"),
            F.make_date("year", "month", "day").alias("date"),
            F.timestamp_add("MINUTE", F.col("minute"), F.col("time_hour")).alias("scheduled"),
            # The clock time in dep_time does not say which day; the delay does.
            F.timestamp_add(
                "MINUTE", F.col("minute") + F.col("dep_delay"), F.col("time_hour")
            ).alias("departed"),
            "time_hour",
            *("carrier", "flight", "tailnum", "origin", "dest", "hour", "dep_delay", "arr_delay"),
            *("distance", "air_time", "seats", "built"),
            *("temp", "humid", "wind_speed", "precip", "pressure", "visib"),
            *("_corrupt_record", "source_file"),
        )
    )
