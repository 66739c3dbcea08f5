-- Loads of scattered reads are written some seconds after their batch: which batches transformer_loads does not hold yet.

CREATE TABLE transformer_loads_owed (
    batch_id bigint PRIMARY KEY,
    first_end timestamptz NOT NULL,
    last_end timestamptz NOT NULL,
    received_at timestamptz NOT NULL
);
COMMENT ON TABLE transformer_loads_owed IS 'Evaluated batches whose reads are not yet in transformer_loads; empty within seconds, and after a stop.';
