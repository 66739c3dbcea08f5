-- The load of every transformer by quarter-hour, written by the service with the batches it follows from.

CREATE TABLE transformer_loads (
    window_end timestamptz NOT NULL,
    transformer_id integer NOT NULL,
    wh bigint NOT NULL,
    varh bigint NOT NULL,
    covered_weight_s bigint NOT NULL,
    expected_weight_s bigint NOT NULL
);
SELECT create_hypertable('transformer_loads', 'window_end', chunk_time_interval => INTERVAL '7 days', create_default_indexes => false);
CREATE UNIQUE INDEX transformer_loads_transformer_window ON transformer_loads (transformer_id, window_end);
CREATE INDEX transformer_loads_window ON transformer_loads (window_end);
COMMENT ON TABLE transformer_loads IS 'Sums of the reads of all members of a transformer per 15-minute window, of every evaluated batch; measured energy only, no estimates.';
COMMENT ON COLUMN transformer_loads.window_end IS 'End of the window; it covers the 15 minutes before. A read that crosses windows is shared out by time.';
COMMENT ON COLUMN transformer_loads.wh IS 'Active energy, import less export, Wh.';
COMMENT ON COLUMN transformer_loads.varh IS 'Reactive energy, import less export, varh; at power factor 0.95 for meters that send none.';
COMMENT ON COLUMN transformer_loads.covered_weight_s IS 'Seconds covered by reads, each meter weighted with its contract power in W (1000 if unknown).';
COMMENT ON COLUMN transformer_loads.expected_weight_s IS 'The same if every member in service had sent. covered / expected is the coverage.';

CREATE TABLE transformer_members (
    transformer_id integer PRIMARY KEY,
    digest bigint NOT NULL
);
COMMENT ON TABLE transformer_members IS 'With which members (a digest) the last 48 h of transformer_loads were counted; if they change, those are counted again.';

CREATE VIEW transformer_load_curve AS
SELECT t.transformer, l.window_end, t.rated_kva, l.wh / 250.0 AS kw, sqrt(l.wh::float8 ^ 2 + l.varh::float8 ^ 2) / 250 AS kva,
       sqrt(l.wh::float8 ^ 2 + l.varh::float8 ^ 2) / 250 / t.rated_kva AS share_of_rating,
       CASE WHEN l.expected_weight_s > 0 THEN l.covered_weight_s::float8 / l.expected_weight_s ELSE 0 END AS coverage,
       l.transformer_id
FROM transformer_loads l JOIN transformers t USING (transformer_id);
COMMENT ON VIEW transformer_load_curve IS 'Mean load of a transformer in each quarter-hour: kW, kVA, share of its rating; coverage: share of the expected reads that arrived.';
