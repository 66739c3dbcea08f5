-- Reads are kept by interval end, so that a new interval goes to the end of the index and not into every page of it.

CREATE TABLE read_stamps (
    end_at timestamptz PRIMARY KEY
);
COMMENT ON TABLE read_stamps IS 'Interval ends that reads have. Ask for the reads of a meter through it: docs/schema.md.';
INSERT INTO read_stamps SELECT DISTINCT end_at FROM reads;

-- In the columnstore the index is a plain one and serves the reads kept in rows.
DO $$
BEGIN
    IF (SELECT layout = 'rowstore' FROM reads_layout) THEN
        CREATE UNIQUE INDEX reads_end_slot ON reads (end_at, slot);
        DROP INDEX reads_slot_end;
    END IF;
END $$;

-- With the usual statistics PostgreSQL lists the ends of a day one by one, takes the ones that came since for none, and
-- reads the whole day for one meter. A histogram of one bar has no list, and its bounds are looked up in the index.
ALTER TABLE reads ALTER COLUMN end_at SET STATISTICS 1;

CREATE OR REPLACE VIEW meter_reads AS
SELECT m.meter, s.end_at, s.end_at - make_interval(secs => r.interval_s) AS start_at, r.interval_s,
       r.import_wh / 1000.0 AS import_kwh, r.export_wh / 1000.0 AS export_kwh,
       r.import_wh * 3.6 / r.interval_s AS import_kw,
       r.voltage_a_v, r.voltage_b_v, r.voltage_c_v, r.current_a_a, r.current_b_a, r.current_c_a, r.power_factor,
       r.quality, r.version, r.received_at
FROM read_stamps s JOIN reads r USING (end_at) JOIN meters m USING (slot);

CREATE OR REPLACE VIEW read_history AS
SELECT s.end_at, received_at, NULL::timestamptz AS superseded_at, slot, interval_s, quality, version, import_wh, export_wh,
       import_varh, export_varh, voltage_a_v, voltage_b_v, voltage_c_v, current_a_a, current_b_a, current_c_a,
       power_factor, device_status
FROM read_stamps s JOIN reads r USING (end_at)
UNION ALL
SELECT end_at, received_at, superseded_at, slot, interval_s, quality, version, import_wh, export_wh,
       import_varh, export_varh, voltage_a_v, voltage_b_v, voltage_c_v, current_a_a, current_b_a, current_c_a,
       power_factor, device_status
FROM read_versions;

CREATE OR REPLACE VIEW missing_intervals AS
SELECT m.meter, d.day, g.end_at, d.slot
FROM meter_days d JOIN meters m USING (slot)
CROSS JOIN LATERAL generate_series(
    d.start_at + make_interval(secs => m.interval_s), d.start_at + make_interval(secs => d.day_s),
    make_interval(secs => m.interval_s)) AS g (end_at)
WHERE d.present < d.expected AND NOT EXISTS (
    SELECT FROM read_stamps s JOIN reads r USING (end_at)
    WHERE r.slot = d.slot AND s.end_at >= g.end_at AND s.end_at < g.end_at + interval '1 day'
      AND s.end_at - make_interval(secs => r.interval_s) < g.end_at);
