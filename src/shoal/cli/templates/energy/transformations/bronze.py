"""Bronze: the rows as they came, each with the file it came from and when it was read."""

from pyspark import pipelines as dp
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

spark: SparkSession  # given by the pipeline

READING = "meter_id STRING, read_at TIMESTAMP, kwh DOUBLE"
WEATHER = "read_at TIMESTAMP, day DATE, half_hour INT, work_day INT, temperature DOUBLE"


@dp.table(name="bronze.readings", comment="One row per meter and half hour, as landed")
def readings() -> DataFrame:
    rows = spark.readStream.format("parquet").schema(READING).load("landing/readings")
    return rows.select(
        "*",
        F.col("_metadata.file_path").alias("source_file"),
        F.current_timestamp().alias("ingested_at"),
    )


# One small file that is written anew every day is no stream: it is read whole when it changes.
@dp.materialized_view(name="bronze.weather", comment="Half hours: work days and temperature")
def weather() -> DataFrame:
    rows = spark.read.format("csv").schema(WEATHER).option("header", True)
    return rows.load("landing/weather.csv")
