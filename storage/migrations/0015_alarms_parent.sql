-- The children of an alarm are looked up when it is explained. Only folded alarms are in it.

CREATE INDEX alarms_parent ON alarms (parent_id) WHERE parent_id IS NOT NULL;
