-- Gold: what people look at, and what models learn from.

CREATE MATERIALIZED VIEW gold.route_days
COMMENT 'Delays and cancellations per carrier, route and day'
AS
WITH planned AS (
  -- Cancelled flights were dropped on the way to silver: they are counted here.
  SELECT carrier, origin, dest, make_date(year, month, day) AS date, count(*) AS planned
  FROM bronze.flights
  WHERE _corrupt_record IS NULL
  GROUP BY carrier, origin, dest, make_date(year, month, day)
),
flown AS (
  SELECT
    carrier, origin, dest, date,
    count(*) AS flights,
    avg(dep_delay) AS mean_dep_delay,
    avg(arr_delay) AS mean_arr_delay,
    percentile_approx(arr_delay, 0.9) AS p90_arr_delay,
    avg(CAST(arr_delay > 15 AS DOUBLE)) AS late_share
  FROM silver.flights
  GROUP BY carrier, origin, dest, date
)
SELECT
  p.carrier, a.name AS airline, p.origin, p.dest, p.date, p.planned,
  coalesce(f.flights, 0) AS flights,
  1 - coalesce(f.flights, 0) / p.planned AS cancelled_share,
  f.mean_dep_delay, f.mean_arr_delay, f.p90_arr_delay, f.late_share
FROM planned AS p
LEFT JOIN flown AS f
  ON f.carrier = p.carrier AND f.origin = p.origin AND f.dest = p.dest AND f.date = p.date
LEFT JOIN bronze.airlines AS a ON a.carrier = p.carrier;

CREATE MATERIALIZED VIEW gold.airport_hours
COMMENT 'How late the planes were that really left an airport in an hour'
AS SELECT
  origin,
  date_trunc('HOUR', departed) AS left_hour,
  count(*) AS departures,
  avg(dep_delay) AS mean_dep_delay
FROM silver.flights
GROUP BY origin, date_trunc('HOUR', departed);

-- Only what is known an hour before the planned hour may stand here, or the model would cheat:
-- airport_delay looks at the planes that left in the hour before that, and the weather of the hour
-- stands in for its forecast. A streaming table, so that only new flights are scored.
--
-- Gaps are filled here and not in the models, so that every segment and every REST caller means
-- the same by a gap: the year's median weather (pressure is missing for one flight in nine, the
-- rest for one in 200), a middling plane (one flight in six is by one whose age is not on
-- record), and no delay where nothing left, as before the first flight of the day.
CREATE STREAMING TABLE gold.delay_features
COMMENT 'One row per departed flight: what was known before, and how late it came'
AS SELECT
  f.flight_id, f.carrier, f.origin, f.dest, f.date,
  CAST(f.arr_delay AS DOUBLE) AS arr_delay,
  coalesce(h.mean_dep_delay, 0.0D) AS airport_delay,
  sin(2 * pi() * f.hour / 24) AS hour_sin,
  cos(2 * pi() * f.hour / 24) AS hour_cos,
  CAST(f.hour AS DOUBLE) AS hour,
  CAST(dayofweek(f.date) IN (1, 7) AS DOUBLE) AS weekend,
  CAST(dayofweek(f.date) IN (5, 6) AS DOUBLE) AS thursday_friday,
  CAST(month(f.date) IN (6, 7, 12) AS DOUBLE) AS busy_month,
  CAST(f.origin = 'JFK' AS DOUBLE) AS from_jfk,
  CAST(f.origin = 'LGA' AS DOUBLE) AS from_lga,
  CAST(f.distance AS DOUBLE) AS distance,
  CAST(coalesce(f.seats, 150) AS DOUBLE) AS seats,
  CAST(coalesce(year(f.date) - f.built, 11) AS DOUBLE) AS plane_age,
  coalesce(f.temp, 57.0D) AS temp,
  coalesce(f.humid, 57.0D) AS humid,
  coalesce(f.wind_speed, 10.0D) AS wind_speed,
  coalesce(f.precip, 0.0D) AS precip,
  coalesce(f.pressure, 1018.0D) AS pressure,
  coalesce(f.visib, 10.0D) AS visib
FROM STREAM(silver.flights) AS f
LEFT JOIN gold.airport_hours AS h
  ON h.origin = f.origin AND h.left_hour = f.time_hour - INTERVAL 2 HOURS;
