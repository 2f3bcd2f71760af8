"""The medallion's queries, as every peer of the benchmark runs them; needs no other module.

bronze.orders   all rows of the landing Parquet files
silver.orders   clean rows: text trimmed, a day and an amount added, unpaid rows dropped
gold.daily      orders, revenue and mean quantity by day and channel
gold.categories revenue and quantity by product category and day (a join with a small table)

Amounts are whole cents, so that every peer must give exactly the same sums.
"""

SCHEMA = (
    "order_id BIGINT, customer INT, product INT, at TIMESTAMP, quantity INT, cents BIGINT, "
    "channel STRING, note STRING"
)
SILVER = (
    "order_id",
    "customer",
    "product",
    "at",
    "to_date(at) AS day",
    "lower(trim(channel)) AS channel",
    "quantity",
    "cents",
    "quantity * cents AS amount",
    "note",
)
PAID = "cents > 0"
DAILY = """
SELECT day, channel, count(*) AS orders, sum(amount) AS revenue, avg(quantity) AS quantity
FROM {silver} GROUP BY day, channel
"""
CATEGORIES = """
SELECT p.category, s.day, sum(s.amount) AS revenue, sum(s.quantity) AS quantity
FROM {silver} AS s JOIN {products} AS p ON s.product = p.product
GROUP BY p.category, s.day
"""
