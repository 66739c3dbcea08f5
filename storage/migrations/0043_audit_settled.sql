-- Up to where every change in the audit log has its outcome: a start looks at what was begun after it, not at every change
-- there ever was.

CREATE INDEX audit_log_begun ON audit_log (audit_no) WHERE outcome = 'BEGUN';

CREATE TABLE audit_settled (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    audit_no bigint NOT NULL
);
COMMENT ON TABLE audit_settled IS 'One row: the newest row of audit_log when a service began last; every change begun up to it has its outcome.';
INSERT INTO audit_settled (audit_no) VALUES (0);
