-- The chain of the audit log is locked by a row that its owner alone may lock. An advisory lock anybody may take who may sign
-- in: a reader with psql could have kept every change of every operator from being done.

CREATE OR REPLACE FUNCTION audit_log_chained() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    r audit_log;
    last_no bigint;
    prior bytea;
BEGIN
    PERFORM FROM audit_settled FOR NO KEY UPDATE;  -- until the commit: links are in the order of commits
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
COMMENT ON TABLE audit_settled IS 'One row: the newest row of audit_log when a service began last; every change begun up to it has its outcome. Who adds to the audit log locks it.';
