-- Alarms of one cause and asset call once: in whose call an alarm began to page, and at which priority a target was told.

ALTER TABLE alarm_pages ADD COLUMN under text;
COMMENT ON COLUMN alarm_pages.under IS 'Alarm in whose call this one began to page; NULL: it called by itself.';

ALTER TABLE notices ADD COLUMN told_priority smallint;
COMMENT ON COLUMN notices.told_priority IS 'Priority as it was told last; NULL: told before it was kept, then that of the severity.';
