-- Gold: what people look at, and what models learn from.

CREATE MATERIALIZED VIEW gold.meter_days
COMMENT 'Use per meter and day of the market (UTC+10)'
AS SELECT
  r.meter_id, w.day,
  count(*) AS readings,
  sum(r.kwh) AS kwh,
  max(r.kwh) AS peak_kwh,
  avg(w.temperature) AS mean_temperature
FROM silver.readings AS r
JOIN bronze.weather AS w ON w.read_at = r.read_at
GROUP BY r.meter_id, w.day;

-- What is known of a half hour a day ahead, whatever the meter: the calendar, and the temperature
-- (the measured one stands in for a forecast). Waves of a day and of half a day, apart for work
-- days, draw the usual day's curve.
CREATE MATERIALIZED VIEW gold.half_hours
COMMENT 'Calendar and temperature of every half hour'
AS SELECT
  w.read_at,
  CAST(w.work_day AS DOUBLE) AS work_day,
  CAST(w.work_day - coalesce(y.work_day, w.work_day) AS DOUBLE) AS work_begins_or_ends,
  w.temperature,
  greatest(w.temperature - 24, 0.0D) AS cooling,
  greatest(16 - w.temperature, 0.0D) AS heating,
  sin(2 * pi() * w.half_hour / 48) AS day_sin,
  cos(2 * pi() * w.half_hour / 48) AS day_cos,
  sin(4 * pi() * w.half_hour / 48) AS half_day_sin,
  cos(4 * pi() * w.half_hour / 48) AS half_day_cos,
  w.work_day * sin(2 * pi() * w.half_hour / 48) AS work_day_sin,
  w.work_day * cos(2 * pi() * w.half_hour / 48) AS work_day_cos,
  w.work_day * sin(4 * pi() * w.half_hour / 48) AS work_half_day_sin,
  w.work_day * cos(4 * pi() * w.half_hour / 48) AS work_half_day_cos
FROM bronze.weather AS w
LEFT JOIN bronze.weather AS y ON y.read_at = w.read_at - INTERVAL 24 HOURS;

-- The newest use that a day-ahead forecast may know is that of 48 half hours ago (lag_48).
-- The lags are looked up by time: after a lost reading, lag(kwh, 48) would count to another hour.
-- Where yesterday's reading is lost, last week's stands in, and the other way round; without
-- either, as in a meter's first day, there is nothing to forecast from.
CREATE MATERIALIZED VIEW gold.load_features
COMMENT 'One row per meter and half hour, up to a day after the last reading: what was known a day before, and the use (null where it is still to come)'
AS
WITH wanted AS (
  SELECT meter_id, read_at, kwh FROM silver.readings
  UNION ALL
  SELECT m.meter_id, h.read_at, CAST(NULL AS DOUBLE) AS kwh
  FROM (SELECT meter_id, max(read_at) AS last FROM silver.readings GROUP BY meter_id) AS m
  JOIN gold.half_hours AS h ON h.read_at > m.last
)
SELECT
  r.meter_id, r.read_at, r.kwh,
  coalesce(yesterday.kwh, last_week.kwh) AS lag_48,
  coalesce(last_week.kwh, yesterday.kwh) AS lag_336,
  h.work_day, h.work_begins_or_ends, h.temperature, h.cooling, h.heating,
  h.day_sin, h.day_cos, h.half_day_sin, h.half_day_cos,
  h.work_day_sin, h.work_day_cos, h.work_half_day_sin, h.work_half_day_cos
FROM wanted AS r
JOIN gold.half_hours AS h ON h.read_at = r.read_at
LEFT JOIN silver.readings AS yesterday
  ON yesterday.meter_id = r.meter_id AND yesterday.read_at = r.read_at - INTERVAL 24 HOURS
LEFT JOIN silver.readings AS last_week
  ON last_week.meter_id = r.meter_id AND last_week.read_at = r.read_at - INTERVAL 168 HOURS
WHERE coalesce(yesterday.kwh, last_week.kwh) IS NOT NULL;
