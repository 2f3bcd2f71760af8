"""From image files to rows of pixels."""

import io
from collections.abc import Iterator

import pyarrow as pa
from pyspark import pipelines as dp
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

import shoal

spark: SparkSession  # given by the pipeline

SIDE = 8


@dp.table(name="bronze.images", comment="One row per file, as landed: path, time, length, bytes")
def images() -> DataFrame:
    return spark.readStream.format("binaryFile").load("landing/images")


@dp.table(name="bronze.labels", comment="What a person read in an image")
def labels() -> DataFrame:
    rows = spark.readStream.format("csv").schema("image STRING, digit INT").option("header", True)
    return rows.load("landing/labels")


def decoded(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Pixels from 0 (paper) to 1 (ink), row by row; null where the bytes are no picture."""
    from PIL import Image, UnidentifiedImageError

    for batch in batches:
        pixels = []
        for content in batch.column("content").to_pylist():
            try:
                with Image.open(io.BytesIO(content)) as image:
                    pixels.append([value / 255 for value in image.convert("L").tobytes()])
            except (UnidentifiedImageError, OSError, SyntaxError):
                pixels.append(None)
        yield pa.record_batch(
            {
                "image": batch.column("image"),
                "pixels": pa.array(pixels, pa.list_(pa.float64())),
            }
        )


@dp.table(name="silver.images", comment="Images as arrays of pixels")
@shoal.expect_or_drop("a_picture", "pixels IS NOT NULL")
@shoal.expect_or_drop("of_8_x_8", f"size(pixels) = {SIDE * SIDE}")
def pixels() -> DataFrame:
    named = spark.readStream.table("bronze.images").select(
        F.regexp_extract("path", r"([^/]+)\.png$", 1).alias("image"), "content"
    )
    return named.mapInArrow(decoded, "image STRING, pixels ARRAY<DOUBLE>")


@dp.materialized_view(name="gold.digits", comment="One column a pixel; the digit where it is known")
def digits() -> DataFrame:
    rows = spark.read.table("silver.images").join(
        spark.read.table("bronze.labels"), on="image", how="left"
    )
    columns = [F.col("pixels")[i].alias(f"p{i:02}") for i in range(SIDE * SIDE)]
    return rows.select("image", "digit", *columns)
