"""The medallion by hand with Polars' streaming engine and deltalake.

python with_polars.py FOLDER OUTPUT
"""

import json
import sys
import time
from pathlib import Path


def main():
    folder, output = Path(sys.argv[1]), Path(sys.argv[2])
    begun = time.perf_counter()
    import polars as pl

    seconds = {"start": time.perf_counter() - begun}
    begun = time.perf_counter()

    def save(frame, name):
        frame.sink_delta(str(output / name), engine="streaming")

    def load(name):
        return pl.scan_delta(str(output / name))

    save(pl.scan_parquet(folder / "landing" / "*.parquet"), "bronze")
    silver = load("bronze").select(
        "order_id",
        "customer",
        "product",
        "at",
        pl.col("at").dt.date().alias("day"),
        pl.col("channel").str.strip_chars(" ").str.to_lowercase(),
        "quantity",
        "cents",
        (pl.col("quantity") * pl.col("cents")).alias("amount"),
        "note",
    )
    save(silver.filter(pl.col("cents") > 0), "silver")
    daily = load("silver").group_by("day", "channel")
    daily = daily.agg(
        pl.len().cast(pl.Int64).alias("orders"),
        pl.col("amount").sum().alias("revenue"),
        pl.col("quantity").mean(),
    )
    save(daily, "daily")
    joined = load("silver").join(pl.scan_delta(str(folder / "products")), on="product")
    categories = joined.group_by("category", "day").agg(
        pl.col("amount").sum().alias("revenue"),
        pl.col("quantity").cast(pl.Int64).sum(),
    )
    save(categories, "categories")
    seconds["full"] = time.perf_counter() - begun
    print(json.dumps(seconds))


main()
