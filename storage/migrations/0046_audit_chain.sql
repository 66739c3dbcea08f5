-- Each row of the audit log is chained to the one before it: a row that was altered, put in between or taken out shows.

CREATE TABLE audit_chain (
    link_no bigint PRIMARY KEY,
    audit_no bigint NOT NULL UNIQUE,
    hash bytea NOT NULL
);
COMMENT ON TABLE audit_chain IS 'A link for each row of audit_log, in the order of their commits: SHA-256 of the link before it and of the row. Append-only.';

CREATE FUNCTION audit_row_hash(prior bytea, r audit_log) RETURNS bytea LANGUAGE sql STABLE AS $$
    SELECT sha256(prior || convert_to(jsonb_build_array(
        r.audit_no, (extract(epoch FROM r.at) * 1000000)::bigint, r.who, r.how, r.method, r.object, r.outcome, r.peer,
        r.calls, r.call_id)::text, 'UTF8'))
$$;
COMMENT ON FUNCTION audit_row_hash IS 'Hash of a row of audit_log behind the link before it; of the first one that is empty.';

CREATE FUNCTION audit_log_chained() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    r audit_log;
    last_no bigint;
    prior bytea;
BEGIN
    PERFORM pg_advisory_xact_lock(1835365473);  -- until the commit: links are in the order of commits
    SELECT link_no, hash INTO last_no, prior FROM audit_chain ORDER BY link_no DESC LIMIT 1;
    last_no := coalesce(last_no, 0);
    prior := coalesce(prior, ''::bytea);
    FOR r IN SELECT * FROM added ORDER BY audit_no LOOP
        last_no := last_no + 1;
        prior := audit_row_hash(prior, r);
        INSERT INTO audit_chain (link_no, audit_no, hash) VALUES (last_no, r.audit_no, prior);
    END LOOP;
    RETURN NULL;
END $$;
CREATE TRIGGER audit_log_chained AFTER INSERT ON audit_log REFERENCING NEW TABLE AS added
FOR EACH STATEMENT EXECUTE FUNCTION audit_log_chained();
ALTER TABLE audit_log ENABLE ALWAYS TRIGGER audit_log_chained;

DO $$
DECLARE
    r audit_log;
    last_no bigint := 0;
    prior bytea := ''::bytea;
BEGIN
    FOR r IN SELECT * FROM audit_log ORDER BY audit_no LOOP
        last_no := last_no + 1;
        prior := audit_row_hash(prior, r);
        INSERT INTO audit_chain (link_no, audit_no, hash) VALUES (last_no, r.audit_no, prior);
    END LOOP;
END $$;

CREATE OR REPLACE FUNCTION audit_log_stays() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append-only: % is refused', TG_TABLE_NAME, TG_OP USING ERRCODE = 'insufficient_privilege';
END $$;
CREATE TRIGGER audit_chain_rows_stay BEFORE UPDATE OR DELETE ON audit_chain FOR EACH ROW EXECUTE FUNCTION audit_log_stays();
CREATE TRIGGER audit_chain_stays BEFORE TRUNCATE ON audit_chain FOR EACH STATEMENT EXECUTE FUNCTION audit_log_stays();
ALTER TABLE audit_chain ENABLE ALWAYS TRIGGER audit_chain_rows_stay;
ALTER TABLE audit_chain ENABLE ALWAYS TRIGGER audit_chain_stays;
