-- What lies over an alarm (shelf, out of service), whom it is assigned to, and what the actions that made it so said.

ALTER TABLE alarms
    ADD COLUMN shelved_until_at timestamptz,
    ADD COLUMN shelved_once boolean NOT NULL DEFAULT false,
    ADD COLUMN shelved_by text,
    ADD COLUMN shelved_reason text,
    ADD COLUMN out_of_service_by text,
    ADD COLUMN out_of_service_reason text,
    ADD COLUMN assigned_to text;
CREATE INDEX alarms_shelved ON alarms (shelved_until_at) WHERE shelved_until_at IS NOT NULL;

ALTER TABLE alarm_actions
    ADD COLUMN shelve_s integer NOT NULL DEFAULT 0,
    ADD COLUMN once boolean NOT NULL DEFAULT false,
    ADD COLUMN assignee text NOT NULL DEFAULT '',
    DROP CONSTRAINT alarm_actions_pkey,
    ADD PRIMARY KEY (action_id, alarm_id);
CREATE INDEX alarm_actions_seq ON alarm_actions (seq);
CREATE INDEX alarm_log_recorded ON alarm_log (recorded_at);
