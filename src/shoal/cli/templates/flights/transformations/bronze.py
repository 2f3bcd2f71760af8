"""Bronze: the rows as they came, each with the file it came from and when it was read."""

from pyspark import pipelines as dp
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

spark: SparkSession  # given by the pipeline

# A line that does not fit the schema is kept, whole, in _corrupt_record.
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
PLANE = """
    tailnum STRING, year INT, type STRING, manufacturer STRING, model STRING, engines INT,
    seats INT, speed INT, engine STRING
"""


def origin_of_rows() -> list[Column]:
    return [
        F.col("_metadata.file_path").alias("source_file"),
        F.current_timestamp().alias("ingested_at"),
    ]


@dp.table(name="bronze.flights", comment="One row per scheduled flight, as landed")
def flights() -> DataFrame:
    rows = (
        spark.readStream.format("json")
        .schema(FLIGHT)
        .option("columnNameOfCorruptRecord", "_corrupt_record")
        .load("landing/flights")
    )
    return rows.select("*", *origin_of_rows())


@dp.table(name="bronze.weather", comment="Hourly weather at the three airports, as landed")
def weather() -> DataFrame:
    rows = (
        spark.readStream.format("csv")
        .schema(WEATHER)
        .option("header", True)
        .option("columnNameOfCorruptRecord", "_corrupt_record")
        .load("landing/weather")
    )
    return rows.select("*", *origin_of_rows())


# Small reference data is no stream: the file is read whole, again when it changes.
@dp.materialized_view(name="bronze.planes", comment="The aircraft register, by tail number")
def planes() -> DataFrame:
    return spark.read.format("csv").schema(PLANE).option("header", True).load("landing/planes.csv")


@dp.materialized_view(name="bronze.airlines", comment="Names of the carriers")
def airlines() -> DataFrame:
    rows = spark.read.format("csv").schema("carrier STRING, name STRING").option("header", True)
    return rows.load("landing/airlines.csv")
