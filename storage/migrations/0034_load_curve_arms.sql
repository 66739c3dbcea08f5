-- The load curve of one transformer read the loads of all: the union stood inside the join, where no condition reaches.

CREATE OR REPLACE VIEW transformer_load_curve AS
SELECT t.transformer, m.window_end, t.rated_kva, m.wh / 250.0 AS kw, sqrt(m.wh::float8 ^ 2 + m.varh::float8 ^ 2) / 250 AS kva,
       sqrt(m.wh::float8 ^ 2 + m.varh::float8 ^ 2) / 250 / t.rated_kva AS share_of_rating,
       CASE WHEN m.expected_weight_s > 0 THEN m.covered_weight_s::float8 / m.expected_weight_s ELSE 0 END AS coverage,
       m.transformer_id,
       coalesce(e.wh, 0) / 250.0 AS estimated_kw,
       CASE WHEN m.expected_weight_s > 0 THEN coalesce(e.estimated_weight_s, 0)::float8 / m.expected_weight_s ELSE 0 END
           AS estimated_share,
       t.rated_kva - sqrt(m.wh::float8 ^ 2 + m.varh::float8 ^ 2) / 250 AS headroom_kva
FROM transformer_loads m
JOIN transformers t USING (transformer_id)
LEFT JOIN transformer_load_estimates e ON e.transformer_id = m.transformer_id AND e.window_end = m.window_end
UNION ALL
SELECT t.transformer, e.window_end, t.rated_kva, 0, 0, 0, 0, e.transformer_id, e.wh / 250.0,
       CASE WHEN e.expected_weight_s > 0 THEN e.estimated_weight_s::float8 / e.expected_weight_s ELSE 0 END,
       t.rated_kva::float8
FROM transformer_load_estimates e
JOIN transformers t USING (transformer_id)
WHERE NOT EXISTS (
    SELECT FROM transformer_loads m WHERE m.transformer_id = e.transformer_id AND m.window_end = e.window_end);
