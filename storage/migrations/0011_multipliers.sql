-- The multiplier of a meter over time: a read is taken with that of its own time, also when it comes late.

CREATE TABLE meter_multipliers (
    slot integer NOT NULL,
    multiplier real NOT NULL CHECK (multiplier > 0),
    valid_from timestamptz NOT NULL,
    valid_to timestamptz NOT NULL DEFAULT 'infinity',
    PRIMARY KEY (slot, valid_from),
    CHECK (valid_from < valid_to)
);
COMMENT ON TABLE meter_multipliers IS 'Multiplier of the instrument transformers of a meter when it is not 1; for intervals that end after valid_from and not after valid_to.';
INSERT INTO meter_multipliers (slot, multiplier, valid_from) SELECT slot, multiplier, installed_at FROM meters WHERE multiplier <> 1;
