-- Alarms that are there to be planned with, such as forecasts: they stand, and call nobody who did not ask for them.

ALTER TABLE alarms ADD COLUMN for_planning boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN alarms.for_planning IS 'True: it says what is to be planned for, and calls only whom asks for it by its type.';
