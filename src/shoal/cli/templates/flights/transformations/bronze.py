"""Bronze: the rows as they came, each with the file it came from and when it was read."""

from pyspark import pipelines as dp
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

spark: SparkSession  # given by the pipeline

FLIGHT = """
    year INT, month INT, day INT, dep_time INT, sched_dep_time INT, dep_delay INT, arr_time INT,
    sched_arr_time INT, arr_delay INT, carrier STRING, flight INT, tailnum STRING, origin STRING,
    dest STRING, air_time INT, distance INT, hour INT, minute INT, time_hour TIMESTAMP,
    _corrupt_record STRING
"""
WEATHER = """
    origin STRING, year INT, month INT, day INT, hour INT, temp DOUBLE, dewp DOUBLE, humid DOUBLE,
    wind_dir INT, wind_speed DOUBLE, wind_gust DOUBLE, precip DOUBLE, pressure DOUBLE,
    visib DOUBLE, time_hour TIMESTAMP, _corrupt_record STRING
"""


@dp.table(name="bronze.flights", comment="One row per scheduled flight, as landed")
def flights() -> DataFrame:
    rows = spark.readStream.format("json").schema(FLIGHT).load("landing/flights")
    return rows.select("*", "_metadata.file_path", F.current_timestamp().alias("ingested_at"))


@dp.table(name="bronze.weather", comment="Hourly weather at the three airports, as landed")
def weather() -> DataFrame:
    rows = (
        spark.readStream.format("csv")
        .schema(WEATHER)
        .option("header", True)
        .option("nullValue", "NA")
        .load("landing/weather")
    )
    return rows.select("*", "_metadata.file_path", F.current_timestamp().alias("ingested_at"))
