-- Interruptions of customers, and the indices of IEEE 1366 made of them.

CREATE TABLE interruptions (
    slot integer NOT NULL,
    from_at timestamptz NOT NULL,
    to_at timestamptz,
    PRIMARY KEY (slot, from_at),
    CHECK (from_at <= to_at)
);
CREATE INDEX interruptions_from ON interruptions (from_at);
COMMENT ON TABLE interruptions IS 'When a meter was without supply; a function of the votes stored. to_at NULL: it is.';

CREATE TABLE interruptions_owed (
    mark_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    asset_kind text NOT NULL,
    asset_id integer NOT NULL,
    from_at timestamptz NOT NULL
);
COMMENT ON TABLE interruptions_owed IS 'Feeders (transformers, meters) whose interruptions changed and are still to be written; empty when all is.';

CREATE FUNCTION regional_time_zone() RETURNS text LANGUAGE sql STABLE AS $$
    SELECT coalesce((SELECT time_zone FROM head_ends GROUP BY time_zone ORDER BY count(*) DESC, time_zone LIMIT 1), 'UTC')
$$;
COMMENT ON FUNCTION regional_time_zone IS 'The time zone of the most head-ends.';

CREATE FUNCTION interruption_planned(p_slot integer, p_transformer_id integer, p_feeder_id integer, p_from timestamptz)
RETURNS boolean LANGUAGE sql STABLE AS $$ SELECT false $$;
COMMENT ON FUNCTION interruption_planned IS 'Whether an interruption of a meter below this transformer and feeder that began then was planned work.';

CREATE VIEW customer_interruptions AS
SELECT m.meter, i.slot, i.from_at, i.to_at, t.transformer, f.feeder, t.district,
       interruption_planned(i.slot, mt.transformer_id, tf.feeder_id, i.from_at) AS planned
FROM interruptions i
JOIN meters m ON m.slot = i.slot AND m.installed_at <= i.from_at AND m.retired_at > i.from_at
LEFT JOIN meter_transformers mt ON mt.slot = i.slot AND mt.valid_from <= i.from_at AND mt.valid_to > i.from_at
LEFT JOIN transformers t USING (transformer_id)
LEFT JOIN transformer_feeders tf
    ON tf.transformer_id = mt.transformer_id AND tf.valid_from <= i.from_at AND tf.valid_to > i.from_at
LEFT JOIN feeders f USING (feeder_id);
COMMENT ON VIEW customer_interruptions IS 'Interruptions by meter number, with where the meter hung when they began.';

CREATE FUNCTION momentary_event_step(first_at timestamptz, at timestamptz, within interval) RETURNS timestamptz
LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    RETURN CASE WHEN at <= first_at + within THEN first_at ELSE at END;
END $$;
CREATE AGGREGATE momentary_event_start(timestamptz, interval) (SFUNC = momentary_event_step, STYPE = timestamptz);
COMMENT ON AGGREGATE momentary_event_start(timestamptz, interval) IS
    'Over the interruptions of a meter in their order: begin of the event that the last one belongs to. An event is all that begins within so long of its first.';

CREATE FUNCTION reliability_indices(
    p_by text, p_per text, p_from date, p_to date, p_as_of timestamptz DEFAULT now(),
    p_sustained_s integer DEFAULT 300, p_zone text DEFAULT regional_time_zone())
RETURNS TABLE (place text, period date, planned boolean, customers double precision, interruptions bigint,
    momentary_events bigint, saifi double precision, saidi_min double precision, caidi_min double precision,
    maifi_e double precision)
LANGUAGE sql STABLE AS $$
WITH periods AS MATERIALIZED (
    SELECT d::date AS period, d AT TIME ZONE p_zone AS start_at,
           least((d + ('1 ' || p_per)::interval) AT TIME ZONE p_zone, p_as_of) AS end_at
    FROM generate_series(date_trunc(p_per, p_from::timestamp), p_to::timestamp - interval '1 microsecond',
        ('1 ' || p_per)::interval) AS d
    WHERE d AT TIME ZONE p_zone < p_as_of
), bounds AS MATERIALIZED (
    SELECT min(start_at) AS start_at, max(end_at) AS end_at FROM periods
), spans AS (
    SELECT CASE p_by WHEN 'feeder' THEN f.feeder WHEN 'district' THEN t.district ELSE '' END AS place,
           greatest(m.installed_at, mt.valid_from, tf.valid_from, b.start_at) AS from_at,
           least(m.retired_at, mt.valid_to, tf.valid_to, b.end_at) AS to_at, count(*) AS meters
    FROM bounds b CROSS JOIN meters m
    LEFT JOIN meter_transformers mt ON p_by <> 'all' AND mt.slot = m.slot
    LEFT JOIN transformers t USING (transformer_id)
    LEFT JOIN transformer_feeders tf ON p_by = 'feeder' AND tf.transformer_id = mt.transformer_id
    LEFT JOIN feeders f USING (feeder_id)
    WHERE CASE p_by WHEN 'feeder' THEN f.feeder IS NOT NULL WHEN 'district' THEN t.district IS NOT NULL ELSE true END
    GROUP BY 1, 2, 3
), served AS (
    SELECT s.place, p.period,
           sum(s.meters * extract(epoch FROM least(s.to_at, p.end_at) - greatest(s.from_at, p.start_at)))
           / extract(epoch FROM p.end_at - p.start_at) AS customers
    FROM spans s JOIN periods p ON s.from_at < p.end_at AND s.to_at > p.start_at
    WHERE s.from_at < s.to_at
    GROUP BY s.place, p.period, p.start_at, p.end_at
), told AS (
    SELECT i.slot, i.from_at, i.planned, i.to_at IS NULL OR i.to_at > p_as_of AS lasts,
           extract(epoch FROM least(i.to_at, p_as_of) - i.from_at) AS off_s,
           CASE p_by WHEN 'feeder' THEN i.feeder WHEN 'district' THEN i.district ELSE '' END AS place,
           momentary_event_start(i.from_at, make_interval(secs => p_sustained_s))
               OVER (PARTITION BY i.slot ORDER BY i.from_at) AS event_at
    FROM customer_interruptions i CROSS JOIN bounds b
    WHERE i.from_at >= b.start_at - interval '1 day' AND i.from_at < b.end_at
), judged AS (
    SELECT *, bool_or(lasts OR off_s > p_sustained_s) OVER (PARTITION BY slot, event_at) AS more_than_momentary FROM told
), counted AS (
    SELECT j.place, p.period, j.planned,
           count(*) FILTER (WHERE off_s > p_sustained_s) AS interruptions,
           coalesce(sum(off_s) FILTER (WHERE off_s > p_sustained_s), 0) / 60 AS minutes,
           count(*) FILTER (WHERE from_at = event_at AND NOT more_than_momentary) AS events
    FROM judged j JOIN periods p ON j.from_at >= p.start_at AND j.from_at < p.end_at
    GROUP BY 1, 2, 3
)
SELECT s.place, s.period, kind.planned, s.customers::double precision, coalesce(c.interruptions, 0), coalesce(c.events, 0),
       (coalesce(c.interruptions, 0) / s.customers)::double precision,
       (coalesce(c.minutes, 0) / s.customers)::double precision,
       (c.minutes / nullif(c.interruptions, 0))::double precision,
       (coalesce(c.events, 0) / s.customers)::double precision
FROM served s CROSS JOIN (VALUES (false), (true)) AS kind (planned)
LEFT JOIN counted c ON c.place = s.place AND c.period = s.period AND c.planned = kind.planned
ORDER BY 1, 2, 3
$$;
COMMENT ON FUNCTION reliability_indices IS
    'SAIFI, SAIDI, CAIDI, MAIFI_E (IEEE 1366) by feeder, district or all, per day or month of regional time.';

CREATE VIEW reliability_by_month AS
SELECT 'feeder' AS by, r.* FROM reliability_indices('feeder', 'month', (now() - interval '12 months')::date, now()::date + 2) r
UNION ALL
SELECT 'district', r.* FROM reliability_indices('district', 'month', (now() - interval '12 months')::date, now()::date + 2) r
UNION ALL
SELECT 'all', r.* FROM reliability_indices('all', 'month', (now() - interval '12 months')::date, now()::date + 2) r;
COMMENT ON VIEW reliability_by_month IS 'The indices of this month and the twelve before it.';

-- alarms: priority, and when they were last announced ----------------------------------------------------------------

ALTER TABLE alarms
    ADD COLUMN priority smallint NOT NULL DEFAULT 1,
    ADD COLUMN announced_at timestamptz;
UPDATE alarms SET priority = severity;

-- what began to page, by time: the measures of the alarm system without its whole log --------------------------------

CREATE TABLE alarm_pages (
    seq bigint NOT NULL,
    recorded_at timestamptz NOT NULL,
    rule text NOT NULL,
    asset_kind text NOT NULL,
    asset text NOT NULL
);
CREATE INDEX alarm_pages_recorded ON alarm_pages (recorded_at);
COMMENT ON TABLE alarm_pages IS 'Transitions with which an alarm began to call for somebody; written with them.';

INSERT INTO alarm_pages
SELECT l.seq, l.recorded_at, l.alarm->>'rule', l.alarm->>'asset_kind', l.alarm->>'asset'
FROM alarm_log l
CROSS JOIN LATERAL (
    SELECT l.alarm->>'state' IN ('UNACK_ACTIVE', 'ACK_ACTIVE', 'RTN_UNACK')
       AND l.alarm->>'shelved_until_us' IS NULL AND l.alarm->>'out_of_service_by' IS NULL AS pages) AS after
LEFT JOIN alarm_log p ON p.alarm_id = l.alarm_id AND p.version = l.version - 1
WHERE after.pages AND (p.alarm IS NULL OR NOT (
    p.alarm->>'state' IN ('UNACK_ACTIVE', 'ACK_ACTIVE', 'RTN_UNACK')
    AND p.alarm->>'shelved_until_us' IS NULL AND p.alarm->>'out_of_service_by' IS NULL));

-- shelves over assets ------------------------------------------------------------------------------------------------

CREATE TABLE asset_shelves (
    action_id text PRIMARY KEY,
    rule text NOT NULL,
    asset_kind text NOT NULL,
    asset text NOT NULL,
    shelve_s integer NOT NULL,
    until_at timestamptz NOT NULL,
    operator text NOT NULL,
    reason text NOT NULL,
    recorded_at timestamptz NOT NULL
);
CREATE INDEX asset_shelves_until ON asset_shelves (until_at);
COMMENT ON TABLE asset_shelves IS 'What operators did to all alarms of an asset, of a rule or of both, present and to come. Empty text: any. The last row of a kind counts.';
