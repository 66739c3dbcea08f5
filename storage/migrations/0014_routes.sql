-- Whom the routes told what: the outbox of messages to departments, derived from the alarm log by a cursor of its own.

CREATE TABLE route_cursor (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    seq bigint NOT NULL,
    next_delivery_no bigint NOT NULL
);
COMMENT ON TABLE route_cursor IS 'Last transition of alarm_log the routes have seen, and the number of the next delivery. Empty until routes run.';

CREATE TABLE route_claims (
    route text NOT NULL,
    alarm_id text NOT NULL,
    since_at timestamptz,
    step integer NOT NULL,
    PRIMARY KEY (route, alarm_id)
);
COMMENT ON TABLE route_claims IS 'Alarms that are not finished, by the routes they concern: not acknowledged since, escalations done.';

CREATE TABLE notices (
    target text NOT NULL,
    alarm_id text NOT NULL,
    route text NOT NULL,
    department text NOT NULL,
    step integer NOT NULL,
    group_key text NOT NULL,
    seq bigint NOT NULL,
    due_at timestamptz,
    urged text,
    told_seq bigint,
    told_state text,
    told_severity smallint,
    told_pages boolean,
    told_at timestamptz,
    delivery_no bigint,
    state text NOT NULL CHECK (state IN ('OPEN', 'TOLD', 'WITHDRAWN', 'DROPPED')),
    PRIMARY KEY (target, alarm_id)
);
CREATE INDEX notices_alarm ON notices (alarm_id);
CREATE INDEX notices_open ON notices (target) WHERE state = 'OPEN';
COMMENT ON TABLE notices IS 'What each target knows, or is to know, of each alarm.';

CREATE TABLE deliveries (
    delivery_no bigint PRIMARY KEY,
    target text NOT NULL,
    route text NOT NULL,
    department text NOT NULL,
    step integer NOT NULL,
    group_key text NOT NULL,
    alarms integer NOT NULL,
    waiting integer NOT NULL,
    made_at timestamptz NOT NULL,
    queued_at timestamptz NOT NULL,
    state text NOT NULL DEFAULT 'WAITING' CHECK (state IN ('WAITING', 'SENT', 'DEAD')),
    attempts integer NOT NULL DEFAULT 0,
    next_try_at timestamptz NOT NULL,
    first_try_at timestamptz,
    last_try_at timestamptz,
    ended_at timestamptz,
    last_error text NOT NULL DEFAULT ''
);
CREATE INDEX deliveries_waiting ON deliveries (target, delivery_no) WHERE state = 'WAITING';
CREATE INDEX deliveries_made ON deliveries (target, made_at);
COMMENT ON TABLE deliveries IS 'Every message to every target, as it was made, and what became of it.';

CREATE TABLE delivery_alarms (
    delivery_no bigint NOT NULL,
    position integer NOT NULL,
    alarm_id text NOT NULL,
    seq bigint NOT NULL,
    change text NOT NULL,
    was_severity smallint,
    shown boolean NOT NULL,
    PRIMARY KEY (delivery_no, position)
);
CREATE INDEX delivery_alarms_alarm ON delivery_alarms (alarm_id, delivery_no);
COMMENT ON TABLE delivery_alarms IS 'The alarms in a message, as they were after transition seq; shown false: only counted.';

CREATE VIEW alarm_deliveries AS
SELECT a.alarm_id, a.change, d.target, d.department, d.route, d.step, d.state, a.shown, l.recorded_at, d.made_at,
       d.queued_at, d.first_try_at, d.last_try_at, d.next_try_at, d.ended_at, d.attempts, d.last_error, d.delivery_no, a.seq
FROM delivery_alarms a
JOIN deliveries d USING (delivery_no)
LEFT JOIN alarm_log l ON l.seq = a.seq;
COMMENT ON VIEW alarm_deliveries IS 'Who was told of an alarm, when, and what came of it.';
