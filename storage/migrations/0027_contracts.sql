-- The contracted power of a meter over time: a demand is judged by the contract of its own time, also when it comes late.

CREATE TABLE meter_contracts (
    slot integer NOT NULL,
    contract_kw real NOT NULL CHECK (contract_kw > 0),
    valid_from timestamptz NOT NULL,
    valid_to timestamptz NOT NULL DEFAULT 'infinity',
    PRIMARY KEY (slot, valid_from),
    CHECK (valid_from < valid_to)
);
COMMENT ON TABLE meter_contracts IS 'Contracted power of a meter, kW; for intervals that end after valid_from and not after valid_to.';
INSERT INTO meter_contracts (slot, contract_kw, valid_from) SELECT slot, contract_kw, installed_at FROM meters WHERE contract_kw > 0;
