-- Gold: what people look at, and what models learn from.

CREATE MATERIALIZED VIEW gold.route_days
COMMENT 'Delays per carrier, route and day'
AS SELECT
  carrier, origin, dest, date,
  count(*) AS flights,
  avg(dep_delay) AS mean_dep_delay,
  avg(arr_delay) AS mean_arr_delay,
  max(arr_delay) AS worst_arr_delay,
  avg(CASE WHEN arr_delay > 15 THEN 1.0 ELSE 0.0 END) AS late_share
FROM silver.flights
GROUP BY carrier, origin, dest, date;

-- Only what is known before departure may stand here, or the model would cheat. Where an hour's
-- weather was not recorded (0.5 % of flights) a mild, dry hour is assumed.
CREATE STREAMING TABLE gold.delay_features
COMMENT 'One row per departed flight: what was known before, and how late it came'
AS SELECT
  f.flight_id, f.carrier, f.origin, f.dest, f.date,
  CAST(f.arr_delay AS DOUBLE) AS arr_delay,
  sin(2 * pi() * f.hour / 24) AS hour_sin,
  cos(2 * pi() * f.hour / 24) AS hour_cos,
  CAST(f.hour AS DOUBLE) AS hour,
  CAST(dayofweek(f.date) IN (1, 7) AS DOUBLE) AS weekend,
  CAST(dayofweek(f.date) IN (5, 6) AS DOUBLE) AS thursday_friday,
  CAST(month(f.date) IN (6, 7, 12) AS DOUBLE) AS busy_month,
  CAST(f.origin = 'JFK' AS DOUBLE) AS from_jfk,
  CAST(f.origin = 'LGA' AS DOUBLE) AS from_lga,
  CAST(f.distance AS DOUBLE) AS distance,
  coalesce(f.temp, 55.0D) AS temp,
  coalesce(f.humid, 60.0D) AS humid,
  coalesce(f.wind_speed, 10.0D) AS wind_speed,
  coalesce(f.precip, 0.0D) AS precip,
  coalesce(f.pressure, 1018.0D) AS pressure,
  coalesce(f.visib, 10.0D) AS visib
FROM STREAM(silver.flights) AS f;
