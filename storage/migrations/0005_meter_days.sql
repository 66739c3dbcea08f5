-- Meters by local day: what the checks that need a day found, and the sums, written by the service in the background.

CREATE TABLE meter_days (
    day date NOT NULL,
    slot integer NOT NULL,
    start_at timestamptz NOT NULL,
    day_s integer NOT NULL,
    import_wh bigint NOT NULL,
    export_wh bigint NOT NULL,
    peak_kw real,
    peak_end timestamptz,
    present integer NOT NULL,
    expected integer NOT NULL,
    estimated integer NOT NULL,
    covered_s integer NOT NULL,
    complete boolean NOT NULL,
    findings integer NOT NULL,
    tail_end timestamptz,
    tail_interval_s integer NOT NULL,
    tail_import_wh integer NOT NULL,
    tail_export_wh integer NOT NULL,
    tail_same_s integer NOT NULL,
    tail_loaded integer NOT NULL
);
SELECT create_hypertable('meter_days', 'day', chunk_time_interval => INTERVAL '7 days', create_default_indexes => false);
CREATE UNIQUE INDEX meter_days_slot_day ON meter_days (slot, day);
COMMENT ON TABLE meter_days IS 'One row per meter and local day (time zone of its head-end), once the day is over: energy, peak, completeness, findings. A function of the current reads.';
COMMENT ON COLUMN meter_days.findings IS 'All quality bits of its reads, without origin.';
COMMENT ON COLUMN meter_days.tail_end IS 'tail_*: how the day ended, for the checks of the next one.';

CREATE TABLE meter_days_owed (
    mark_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    day date NOT NULL,
    slot integer NOT NULL
);
CREATE INDEX meter_days_owed_day ON meter_days_owed (day, mark_id);
COMMENT ON TABLE meter_days_owed IS 'Meter-days whose reads changed after they were judged; empty when all is judged again.';

CREATE TABLE local_day_passes (
    time_zone text PRIMARY KEY,
    day date NOT NULL,
    next_slot integer NOT NULL
);
COMMENT ON TABLE local_day_passes IS 'How far the first judgement of local days has come: days before it are done, of it the meters below next_slot.';

CREATE VIEW meter_day_energy AS
SELECT m.meter, d.day, d.import_wh / 1000.0 AS import_kwh, d.export_wh / 1000.0 AS export_kwh, d.peak_kw, d.peak_end,
       d.present, d.expected, d.estimated, d.complete, d.findings
FROM meter_days d JOIN meters m USING (slot);
COMMENT ON VIEW meter_day_energy IS 'Energy, peak and completeness by meter number and local day.';

CREATE VIEW missing_intervals AS
SELECT m.meter, d.day, g.end_at, d.slot
FROM meter_days d JOIN meters m USING (slot)
CROSS JOIN LATERAL generate_series(
    d.start_at + make_interval(secs => m.interval_s), d.start_at + make_interval(secs => d.day_s),
    make_interval(secs => m.interval_s)) AS g (end_at)
WHERE d.present < d.expected AND NOT EXISTS (
    SELECT FROM reads r WHERE r.slot = d.slot AND r.end_at >= g.end_at AND r.end_at < g.end_at + interval '1 day'
      AND r.end_at - make_interval(secs => r.interval_s) < g.end_at);
COMMENT ON VIEW missing_intervals IS 'The gap list: interval ends without a read, of local days that are over. Ask for a day or a meter.';
