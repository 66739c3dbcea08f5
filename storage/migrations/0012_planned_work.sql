-- Work planned on the grid: who shall be without supply, and why; and how well each communication mode delivers.

CREATE TABLE planned_works (
    work_id text PRIMARY KEY,
    asset_kind text NOT NULL CHECK (asset_kind IN ('feeder', 'transformer', 'meter')),
    asset_id integer NOT NULL,
    from_at timestamptz NOT NULL,
    to_at timestamptz NOT NULL,
    reason text NOT NULL,
    planned_by text NOT NULL,
    recorded_at timestamptz NOT NULL,
    cancelled_at timestamptz,
    CHECK (from_at < to_at)
);
CREATE INDEX planned_works_to ON planned_works (to_at);
COMMENT ON TABLE planned_works IS 'Work planned on an asset: an outage of it in [from_at, to_at) calls nobody. Cancelled work explains nothing.';

CREATE TABLE gasp_delivery (
    comm_mode text NOT NULL,
    valid_from timestamptz NOT NULL,
    p_gasp real NOT NULL CHECK (p_gasp BETWEEN 0.05 AND 0.99),
    reported bigint NOT NULL,
    affected bigint NOT NULL,
    learnt_at timestamptz NOT NULL,
    PRIMARY KEY (comm_mode, valid_from)
);
COMMENT ON TABLE gasp_delivery IS 'Share of meters without supply that say so, learnt from outages that are over; for onsets from valid_from on.';
