-- A change is on record before it is begun: one row BEGUN, and one with what came of it, found by the same call_id.

ALTER TABLE audit_log ADD COLUMN call_id bigint NOT NULL DEFAULT 0;
CREATE INDEX audit_log_call ON audit_log (call_id) WHERE call_id <> 0;
COMMENT ON COLUMN audit_log.call_id IS 'The same in the row BEGUN of a change and in the row of its outcome; 0: the row stands for itself.';
