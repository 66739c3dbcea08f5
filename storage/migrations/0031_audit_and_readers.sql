-- Who did what, and what was refused; and people with SQL who may see some districts only.

CREATE TABLE audit_log (
    audit_no bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL,
    who text NOT NULL,
    how text NOT NULL,
    method text NOT NULL,
    object text NOT NULL,
    outcome text NOT NULL,
    peer text NOT NULL,
    calls bigint NOT NULL CHECK (calls > 0)
);
CREATE INDEX audit_log_at ON audit_log (at);
COMMENT ON TABLE audit_log IS 'Every call that altered something, and what was refused. Append-only: nothing is ever changed or deleted.';

CREATE FUNCTION audit_log_stays() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'audit_log is append-only: % is refused', TG_OP USING ERRCODE = 'insufficient_privilege';
END $$;
CREATE TRIGGER audit_log_rows_stay BEFORE UPDATE OR DELETE ON audit_log FOR EACH ROW EXECUTE FUNCTION audit_log_stays();
CREATE TRIGGER audit_log_stays BEFORE TRUNCATE ON audit_log FOR EACH STATEMENT EXECUTE FUNCTION audit_log_stays();
-- Also when somebody sets session_replication_role to replica, with which ordinary triggers do not fire.
ALTER TABLE audit_log ENABLE ALWAYS TRIGGER audit_log_rows_stay;
ALTER TABLE audit_log ENABLE ALWAYS TRIGGER audit_log_stays;

-- readers: roles for psql that see their districts ------------------------------------------------------------------------

CREATE TABLE reader_districts (
    reader text NOT NULL,
    district text NOT NULL,
    PRIMARY KEY (reader, district)
);
COMMENT ON TABLE reader_districts IS 'Which districts a SQL role may see through the my_ views; written by make_reader.';

-- The views run with the rights of their owner and filter by session_user, which SET ROLE does not change.
-- security_barrier: no function of the reader sees a row before the filter.

CREATE VIEW my_districts WITH (security_barrier) AS
SELECT district FROM reader_districts WHERE reader = session_user;
COMMENT ON VIEW my_districts IS 'Districts of whoever asks.';

CREATE VIEW my_transformers WITH (security_barrier) AS
SELECT t.transformer_id, t.transformer, t.rated_kva, t.winding, t.district
FROM transformers t WHERE t.district IN (SELECT district FROM my_districts);
COMMENT ON VIEW my_transformers IS 'Transformers of my districts.';

CREATE VIEW my_meters WITH (security_barrier) AS
SELECT m.slot, m.meter, m.phases, m.interval_s, t.transformer, t.district, mt.valid_from, mt.valid_to
FROM meters m JOIN meter_transformers mt USING (slot) JOIN my_transformers t USING (transformer_id);
COMMENT ON VIEW my_meters IS 'Meters of my districts, with the time for which they hung there.';

CREATE VIEW my_reads WITH (security_barrier) AS
SELECT m.meter, m.transformer, m.district, r.end_at, r.interval_s, r.import_wh, r.export_wh, r.voltage_a_v, r.voltage_b_v,
       r.voltage_c_v, r.current_a_a, r.current_b_a, r.current_c_a, r.power_factor, r.quality, r.version, r.received_at
FROM reads r JOIN my_meters m ON m.slot = r.slot AND r.end_at > m.valid_from AND r.end_at <= m.valid_to;
COMMENT ON VIEW my_reads IS 'Reads of my districts: of each meter for the time it hung there.';

CREATE VIEW my_loads WITH (security_barrier) AS
SELECT t.transformer, t.district, l.window_end, l.wh, l.varh, l.covered_weight_s, l.expected_weight_s
FROM transformer_loads l JOIN my_transformers t USING (transformer_id);
COMMENT ON VIEW my_loads IS 'Loads of the transformers of my districts, by quarter-hour.';

CREATE VIEW my_alarms WITH (security_barrier) AS
SELECT a.alarm_id, a.rule, a.asset_kind, a.asset, a.feeder, a.district, a.state, a.severity, a.priority, a.level, a.onset_at,
       a.raised_at, a.cleared_at, a.recorded_at, a.version, a.parent_id, a.summary, a.acknowledged_by, a.acknowledged_at, a.note
FROM alarms a WHERE a.district IN (SELECT district FROM my_districts);
COMMENT ON VIEW my_alarms IS 'Alarms of my districts.';

CREATE FUNCTION make_reader(p_reader text, p_districts text[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF coalesce(array_length(p_districts, 1), 0) = 0 OR '' = ANY (p_districts) OR array_position(p_districts, NULL) IS NOT NULL THEN
        RAISE EXCEPTION 'make_reader needs districts, each with a name';
    END IF;
    IF NOT EXISTS (SELECT FROM reader_districts WHERE reader = p_reader) THEN  -- an existing role is refused by CREATE ROLE
        EXECUTE format('CREATE ROLE %I LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS', p_reader);
    END IF;
    EXECUTE format('ALTER ROLE %I SET default_transaction_read_only = on', p_reader);
    EXECUTE format('ALTER ROLE %I SET statement_timeout = ''60s''', p_reader);
    EXECUTE format('GRANT USAGE ON SCHEMA public TO %I', p_reader);
    EXECUTE format('GRANT SELECT ON my_districts, my_transformers, my_meters, my_reads, my_loads, my_alarms TO %I', p_reader);
    DELETE FROM reader_districts WHERE reader = p_reader;
    INSERT INTO reader_districts SELECT DISTINCT p_reader, unnest(p_districts);
END $$;
COMMENT ON FUNCTION make_reader IS 'Make a SQL role that sees these districts through the my_ views and nothing else, or give it others. It has no password yet.';
REVOKE EXECUTE ON FUNCTION make_reader FROM PUBLIC;
