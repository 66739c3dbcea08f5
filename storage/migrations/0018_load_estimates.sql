-- What estimates say of the load of transformers, beside what was measured; and whose loads are to be counted again.

CREATE TABLE transformer_load_estimates (
    window_end timestamptz NOT NULL,
    transformer_id integer NOT NULL,
    wh bigint NOT NULL,
    estimated_weight_s bigint NOT NULL,
    expected_weight_s bigint NOT NULL
);
SELECT create_hypertable('transformer_load_estimates', 'window_end', chunk_time_interval => INTERVAL '7 days', create_default_indexes => false);
CREATE UNIQUE INDEX transformer_load_estimates_transformer_window ON transformer_load_estimates (transformer_id, window_end);
COMMENT ON TABLE transformer_load_estimates IS 'Sums of the estimated and substituted reads of the members of a transformer per 15-minute window; only where there are any. No rule looks at them.';

CREATE TABLE transformer_loads_dirty (
    mark_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    transformer_id integer NOT NULL,
    from_at timestamptz NOT NULL
);
COMMENT ON TABLE transformer_loads_dirty IS 'Transformers whose members of that time on were changed by an import: their loads are to be counted again; empty otherwise.';

CREATE OR REPLACE VIEW transformer_load_curve AS
SELECT t.transformer, l.window_end, t.rated_kva, l.wh / 250.0 AS kw, sqrt(l.wh::float8 ^ 2 + l.varh::float8 ^ 2) / 250 AS kva,
       sqrt(l.wh::float8 ^ 2 + l.varh::float8 ^ 2) / 250 / t.rated_kva AS share_of_rating,
       CASE WHEN l.expected_weight_s > 0 THEN l.covered_weight_s::float8 / l.expected_weight_s ELSE 0 END AS coverage,
       l.transformer_id,
       l.estimated_wh / 250.0 AS estimated_kw,
       CASE WHEN l.expected_weight_s > 0 THEN l.estimated_weight_s::float8 / l.expected_weight_s ELSE 0 END AS estimated_share
FROM (
    SELECT m.window_end, m.transformer_id, m.wh, m.varh, m.covered_weight_s, m.expected_weight_s,
           coalesce(e.wh, 0) AS estimated_wh, coalesce(e.estimated_weight_s, 0) AS estimated_weight_s
    FROM transformer_loads m
    LEFT JOIN transformer_load_estimates e ON e.transformer_id = m.transformer_id AND e.window_end = m.window_end
    UNION ALL
    SELECT e.window_end, e.transformer_id, 0, 0, 0, e.expected_weight_s, e.wh, e.estimated_weight_s
    FROM transformer_load_estimates e
    WHERE NOT EXISTS (
        SELECT FROM transformer_loads m WHERE m.transformer_id = e.transformer_id AND m.window_end = e.window_end)
) AS l JOIN transformers t USING (transformer_id);
COMMENT ON VIEW transformer_load_curve IS 'Mean load of a transformer in each quarter-hour: kW, kVA, share of its rating; coverage: share of the expected reads that arrived; estimated_kw, estimated_share: what estimates add to it, in no other column.';
