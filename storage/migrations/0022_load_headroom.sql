-- What is left of a rating: of transformers in their curve, of feeders as a function of their voltage; losses by district.
-- What single-phase members drew, by phase, where the profile asks for it.

ALTER TABLE transformer_loads ADD wh_a bigint, ADD wh_b bigint, ADD wh_c bigint;
COMMENT ON COLUMN transformer_loads.wh_a IS 'Part of wh: of the single-phase members on phase A, Wh. NULL: not counted by phase.';
COMMENT ON COLUMN transformer_loads.wh_b IS 'The same of phase B.';
COMMENT ON COLUMN transformer_loads.wh_c IS 'The same of phase C.';

CREATE OR REPLACE VIEW transformer_load_curve AS
SELECT t.transformer, l.window_end, t.rated_kva, l.wh / 250.0 AS kw, sqrt(l.wh::float8 ^ 2 + l.varh::float8 ^ 2) / 250 AS kva,
       sqrt(l.wh::float8 ^ 2 + l.varh::float8 ^ 2) / 250 / t.rated_kva AS share_of_rating,
       CASE WHEN l.expected_weight_s > 0 THEN l.covered_weight_s::float8 / l.expected_weight_s ELSE 0 END AS coverage,
       l.transformer_id,
       l.estimated_wh / 250.0 AS estimated_kw,
       CASE WHEN l.expected_weight_s > 0 THEN l.estimated_weight_s::float8 / l.expected_weight_s ELSE 0 END AS estimated_share,
       t.rated_kva - sqrt(l.wh::float8 ^ 2 + l.varh::float8 ^ 2) / 250 AS headroom_kva
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

CREATE FUNCTION feeder_load_curve(p_from timestamptz, p_to timestamptz, p_nominal_kv float8 DEFAULT 10)
RETURNS TABLE (feeder text, window_end timestamptz, rated_kva float8, kw float8, kva float8, share_of_rating float8,
               coverage float8, headroom_kva float8, transformers bigint)
LANGUAGE sql STABLE AS $$
WITH sums AS (
    SELECT f.feeder, f.ampacity_a, l.window_end, count(*) AS transformers, sum(l.wh) / 250.0 AS kw,
           sqrt(sum(l.wh)::float8 ^ 2 + sum(l.varh)::float8 ^ 2) / 250 AS kva,
           coalesce(sum(l.covered_weight_s)::float8 / nullif(sum(l.expected_weight_s), 0), 0) AS coverage
    FROM transformer_loads l
    JOIN transformer_feeders tf ON tf.transformer_id = l.transformer_id
      AND tf.valid_from < l.window_end AND tf.valid_to >= l.window_end
    JOIN feeders f USING (feeder_id)
    WHERE l.window_end > p_from AND l.window_end <= p_to
    GROUP BY f.feeder, f.ampacity_a, l.window_end)
SELECT s.feeder, s.window_end, r.rated_kva, s.kw::float8, s.kva, s.kva / r.rated_kva, s.coverage, r.rated_kva - s.kva,
       s.transformers
FROM sums s, LATERAL (SELECT s.ampacity_a * p_nominal_kv * sqrt(3::float8) AS rated_kva) r
ORDER BY s.feeder, s.window_end
$$;
COMMENT ON FUNCTION feeder_load_curve IS 'Mean load of each feeder per quarter-hour with p_from < window end <= p_to: the sum of its transformers, without losses; rating from ampacity_a at p_nominal_kv between the phases. coverage: of the transformers with a load.';

CREATE VIEW district_losses AS
SELECT t.district, d.day, count(*) AS measured_transformers, sum(d.supply_wh)::bigint AS supply_wh,
       sum(d.sales_wh)::bigint AS sales_wh, (sum(d.supply_wh) - sum(d.sales_wh))::float8 / sum(d.supply_wh) AS loss_share
FROM transformer_days d JOIN transformers t USING (transformer_id)
WHERE d.loss_share IS NOT NULL
GROUP BY t.district, d.day HAVING sum(d.supply_wh) > 0;
COMMENT ON VIEW district_losses IS 'Line loss of a district over a local day: of the transformers with a check meter whose balance says something that day (loss_share in transformer_days).';
