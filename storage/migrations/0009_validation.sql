-- What the checks V08, V10, V14 and V18 need: cumulative registers, and which meter measures a transformer.

CREATE TABLE meter_registers (
    slot integer NOT NULL,
    device text NOT NULL DEFAULT '',
    digits smallint CHECK (digits BETWEEN 1 AND 15),
    lsb_wh real NOT NULL DEFAULT 1 CHECK (lsb_wh > 0),
    valid_from timestamptz NOT NULL,
    valid_to timestamptz NOT NULL DEFAULT 'infinity',
    PRIMARY KEY (slot, valid_from),
    CHECK (valid_from < valid_to)
);
COMMENT ON TABLE meter_registers IS 'What the registers of a meter look like, and which device they are in, when; valid_to exclusive. Another device starts another count.';

CREATE TABLE register_reads (
    at timestamptz NOT NULL,
    received_at timestamptz NOT NULL,
    slot integer NOT NULL,
    register smallint NOT NULL,
    version smallint NOT NULL,
    value_wh bigint NOT NULL
);
SELECT create_hypertable('register_reads', 'at', chunk_time_interval => INTERVAL '7 days', create_default_indexes => false);
CREATE UNIQUE INDEX register_reads_slot_register_at ON register_reads (slot, register, at);
COMMENT ON TABLE register_reads IS 'What the registers of meters showed (1 import, 2 export), primary Wh; the value that arrived last.';

CREATE TABLE register_versions (
    at timestamptz NOT NULL,
    received_at timestamptz NOT NULL,
    superseded_at timestamptz NOT NULL,
    slot integer NOT NULL,
    register smallint NOT NULL,
    version smallint NOT NULL,
    value_wh bigint NOT NULL
);
SELECT create_hypertable('register_versions', 'at', chunk_time_interval => INTERVAL '28 days', create_default_indexes => false);
CREATE INDEX register_versions_slot_register_at ON register_versions (slot, register, at);
COMMENT ON TABLE register_versions IS 'Values of register reads that another one has taken the place of.';

CREATE TABLE register_days (
    day date NOT NULL,
    slot integer NOT NULL,
    register smallint NOT NULL,
    first_at timestamptz NOT NULL,
    last_at timestamptz NOT NULL,
    register_wh bigint NOT NULL,
    interval_wh bigint NOT NULL,
    mismatch boolean NOT NULL
);
SELECT create_hypertable('register_days', 'day', chunk_time_interval => INTERVAL '7 days', create_default_indexes => false);
CREATE UNIQUE INDEX register_days_slot_day ON register_days (slot, day, register);
COMMENT ON TABLE register_days IS 'V14 in figures: how far a register advanced within a local day, and the sum of the intervals between its first and its last read there.';

CREATE TABLE check_meters (
    slot integer NOT NULL,
    transformer_id integer NOT NULL,
    valid_from timestamptz NOT NULL,
    valid_to timestamptz NOT NULL DEFAULT 'infinity',
    PRIMARY KEY (slot, valid_from),
    CHECK (valid_from < valid_to)
);
CREATE INDEX check_meters_transformer ON check_meters (transformer_id);
CREATE INDEX meter_transformers_transformer ON meter_transformers (transformer_id);
COMMENT ON TABLE check_meters IS 'Which meter measures what a transformer delivers, and when; valid_to exclusive. It is no customer of it.';

CREATE TABLE transformer_days (
    day date NOT NULL,
    transformer_id integer NOT NULL,
    supply_wh bigint NOT NULL,
    sales_wh bigint NOT NULL,
    members integer NOT NULL,
    supply_coverage real NOT NULL,
    sales_coverage real NOT NULL,
    loss_share real,
    imbalance boolean NOT NULL
);
SELECT create_hypertable('transformer_days', 'day', chunk_time_interval => INTERVAL '28 days', create_default_indexes => false);
CREATE UNIQUE INDEX transformer_days_transformer_day ON transformer_days (transformer_id, day);
COMMENT ON TABLE transformer_days IS 'V18: balance of a measured transformer over a local day: what its check meters delivered and what its members drew.';

CREATE TABLE meter_clocks (
    slot integer PRIMARY KEY,
    day date NOT NULL,
    lag_s real NOT NULL,
    usual_lag_s real,
    drift_s real,
    samples integer NOT NULL
) WITH (fillfactor = 70);
COMMENT ON TABLE meter_clocks IS 'V10 in figures: how long after its end a read of a meter comes, how long it takes with its peers, and the difference: its clock. Of the newest day judged.';
