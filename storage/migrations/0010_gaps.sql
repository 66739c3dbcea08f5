-- What is missing of what meters owe. Bits 28..30 of quality (1879048192) say that the service estimated a read itself.

CREATE OR REPLACE VIEW missing_intervals AS
SELECT m.meter, d.day, g.end_at, d.slot
FROM meter_days d JOIN meters m USING (slot)
CROSS JOIN LATERAL generate_series(
    d.start_at + make_interval(secs => m.interval_s), d.start_at + make_interval(secs => d.day_s),
    make_interval(secs => m.interval_s)) AS g (end_at)
WHERE d.present < d.expected AND NOT EXISTS (
    SELECT FROM read_stamps s JOIN reads r USING (end_at)
    WHERE r.slot = d.slot AND s.end_at >= g.end_at AND s.end_at < g.end_at + interval '1 day'
      AND s.end_at - make_interval(secs => r.interval_s) < g.end_at AND r.quality & 1879048192 = 0);

-- Ends on the grid of the meter's interval (UTC) within the hour and its time of service, and the reads that end there.
CREATE FUNCTION read_completeness(from_at timestamptz, to_at timestamptz)
RETURNS TABLE (hour_at timestamptz, comm_mode text, terminal_type text, district text, expected bigint, present bigint,
               estimated bigint)
LANGUAGE sql STABLE AS $$
WITH hours AS (
    SELECT h AS hour_at, greatest(h, from_at) AS after, least(h + interval '1 hour', to_at) AS until
    FROM generate_series(date_trunc('hour', from_at), to_at - interval '1 microsecond', interval '1 hour') AS h
), stored AS (
    SELECT date_trunc('hour', r.end_at - interval '1 microsecond') AS hour_at, r.slot,
           count(*) FILTER (WHERE r.quality & 1879048192 = 0) AS present,
           count(*) FILTER (WHERE r.quality & 1879048192 <> 0) AS estimated
    FROM reads r WHERE r.end_at > from_at AND r.end_at <= to_at GROUP BY 1, 2
), owed AS (
    SELECT h.hour_at, h.until, m.slot, m.terminal_type,
           floor(extract(epoch FROM least(h.until, m.retired_at)) / m.interval_s)
           - greatest(floor(extract(epoch FROM h.after) / m.interval_s),
                      ceil(extract(epoch FROM m.installed_at) / m.interval_s)) AS reads
    FROM hours h JOIN meters m ON m.installed_at < h.until AND m.retired_at > h.after
)
SELECT o.hour_at, coalesce(l.comm_mode, ''), o.terminal_type, coalesce(nullif(f.district, ''), t.district, ''),
       sum(o.reads)::bigint, sum(least(coalesce(s.present, 0), o.reads))::bigint, sum(coalesce(s.estimated, 0))::bigint
FROM owed o
LEFT JOIN stored s ON s.slot = o.slot AND s.hour_at = o.hour_at
LEFT JOIN meter_links l ON l.slot = o.slot AND l.valid_from < o.until AND l.valid_to >= o.until
LEFT JOIN meter_transformers mt ON mt.slot = o.slot AND mt.valid_from < o.until AND mt.valid_to >= o.until
LEFT JOIN transformers t ON t.transformer_id = mt.transformer_id
LEFT JOIN transformer_feeders tf ON tf.transformer_id = mt.transformer_id AND tf.valid_from < o.until AND tf.valid_to >= o.until
LEFT JOIN feeders f ON f.feeder_id = tf.feeder_id
WHERE o.reads > 0 GROUP BY 1, 2, 3, 4
$$;
COMMENT ON FUNCTION read_completeness IS 'Reads owed, there and estimated by communication mode, terminal type, district and hour, for interval ends with from_at < end <= to_at.';

CREATE TABLE estimates_owed (
    mark_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    day date NOT NULL,
    slot integer NOT NULL
);
CREATE INDEX estimates_owed_day ON estimates_owed (day, mark_id);
COMMENT ON TABLE estimates_owed IS 'Meter-days with gaps whose estimates are to be made, or made again; empty when all is estimated.';
