-- What was known when, and what was put in by hand.

CREATE VIEW read_history AS
SELECT end_at, received_at, NULL::timestamptz AS superseded_at, slot, interval_s, quality, version, import_wh, export_wh,
       import_varh, export_varh, voltage_a_v, voltage_b_v, voltage_c_v, current_a_a, current_b_a, current_c_a,
       power_factor, device_status
FROM reads
UNION ALL
SELECT end_at, received_at, superseded_at, slot, interval_s, quality, version, import_wh, export_wh,
       import_varh, export_varh, voltage_a_v, voltage_b_v, voltage_c_v, current_a_a, current_b_a, current_c_a,
       power_factor, device_status
FROM read_versions;
COMMENT ON VIEW read_history IS 'Every version of every read; superseded_at is NULL for the current one. Give slot and a span of end_at.';

-- One SELECT and no SET, so that the planner puts it in place of the call and a WHERE on slot and end_at reaches the tables.
-- Two writers may swap the order of two clock readings; then two versions cover an instant, and the later version counts.
CREATE FUNCTION reads_as_of(as_of timestamptz) RETURNS SETOF reads LANGUAGE sql STABLE AS $$
SELECT DISTINCT ON (slot, end_at)
       end_at, received_at, slot, interval_s, quality, version, import_wh, export_wh,
       import_varh, export_varh, voltage_a_v, voltage_b_v, voltage_c_v, current_a_a, current_b_a, current_c_a,
       power_factor, device_status
FROM read_history WHERE received_at <= as_of AND (superseded_at IS NULL OR superseded_at > as_of)
ORDER BY slot, end_at, version DESC
$$;
COMMENT ON FUNCTION reads_as_of IS 'The reads as the service knew them at a moment of its clock: rows as in reads.';

CREATE TABLE read_edits (
    action_id text NOT NULL,
    slot integer NOT NULL,
    end_at timestamptz NOT NULL,
    operator text NOT NULL,
    reason text NOT NULL,
    recorded_at timestamptz NOT NULL,
    version smallint NOT NULL,
    old jsonb,
    new jsonb NOT NULL,
    PRIMARY KEY (action_id, slot, end_at)
);
CREATE INDEX read_edits_slot_end ON read_edits (slot, end_at);
COMMENT ON TABLE read_edits IS 'Values put in by hand: who, when, why, and the read before (NULL: none) and after, as JSON.';
