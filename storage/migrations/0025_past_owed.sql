-- A batch is also owed while its loads are stored and the windows of the past that it changed are not judged yet.

ALTER TABLE transformer_loads_owed ADD COLUMN counted boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN transformer_loads_owed.counted IS 'Its loads are stored; what it changed in the past waits to be judged.';
COMMENT ON TABLE transformer_loads_owed IS 'Evaluated batches whose reads are not yet in transformer_loads, or whose changes of the past are not judged yet; empty within seconds, and after a stop.';
