-- Where so much was off at once that operators were shown roots and counts first; and which phases an event is about: two
-- phases lost in the same moment are two events.

CREATE TABLE storms (
    reason text NOT NULL,
    district text NOT NULL,
    began_at timestamptz NOT NULL,
    ended_at timestamptz,
    meters integer NOT NULL,
    meters_off_max integer NOT NULL,
    roots_max integer NOT NULL,
    PRIMARY KEY (reason, district, began_at)
);
COMMENT ON TABLE storms IS 'Storms: OFF of a district, FLOOD everywhere. By the service clock; no alarm depends on them.';
COMMENT ON COLUMN storms.ended_at IS 'NULL while it lasts.';
COMMENT ON COLUMN storms.meters_off_max IS 'Most meters below outages at once.';
COMMENT ON COLUMN storms.roots_max IS 'Most of these outages at once.';

ALTER TABLE events ADD COLUMN phases smallint NOT NULL DEFAULT 0;
COMMENT ON COLUMN events.phases IS 'Phases it is about: bits 1 A, 2 B, 4 C; 0: not told.';
DROP INDEX events_slot_at_code;
CREATE UNIQUE INDEX events_slot_at_code ON events (slot, at, code, phases);
