-- What named subscribers to alarms were sent, and when they said that they had it and showed it.

CREATE TABLE subscriber_receipts (
    receipt_no bigint PRIMARY KEY,
    subscriber text NOT NULL,
    seqs bigint[] NOT NULL,
    sent_at timestamptz NOT NULL,
    received_at timestamptz NOT NULL,
    shown_at timestamptz
);
CREATE INDEX subscriber_receipts_seqs ON subscriber_receipts USING gin (seqs);
COMMENT ON TABLE subscriber_receipts IS 'Messages with alarms that a subscriber has confirmed; the newest of each, see docs/receipts.md.';

CREATE VIEW alarm_receipts AS
SELECT l.alarm_id, r.subscriber, l.seq, l.kind,
       timestamptz 'epoch' + (l.alarm->>'onset_us')::bigint * interval '1 microsecond' AS onset_at,
       timestamptz 'epoch' + (l.alarm->>'raised_us')::bigint * interval '1 microsecond' AS detected_at,
       l.recorded_at AS committed_at, r.sent_at, r.received_at, r.shown_at
FROM subscriber_receipts r
CROSS JOIN LATERAL unnest(r.seqs) AS told(seq)
JOIN alarm_log l ON l.seq = told.seq;
COMMENT ON VIEW alarm_receipts IS 'Which subscriber had which alarm when.';

-- Of two shelves over the same at one moment of the service's clock the later one counts.
ALTER TABLE asset_shelves ADD COLUMN shelf_no bigint GENERATED ALWAYS AS IDENTITY;
