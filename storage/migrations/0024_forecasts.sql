-- What transformers will probably carry, and what customers can spare when that is too much.

CREATE TABLE transformer_forecasts (
    transformer_id integer PRIMARY KEY,
    made_at timestamptz NOT NULL,
    first_end timestamptz NOT NULL,
    step_s integer NOT NULL,
    forecaster smallint NOT NULL,
    paths integer NOT NULL,
    p10 real[] NOT NULL,
    p50 real[] NOT NULL,
    p90 real[] NOT NULL,
    p_over real[] NOT NULL,
    p_hot real[] NOT NULL,
    hot_spot_c real[] NOT NULL,
    overload_chance real NOT NULL,
    overload_at timestamptz
);
COMMENT ON TABLE transformer_forecasts IS 'The newest forecast of each transformer, made once an hour; older ones are not kept.';
COMMENT ON COLUMN transformer_forecasts.made_at IS 'Service clock; loads of windows that ended before were known.';
COMMENT ON COLUMN transformer_forecasts.first_end IS 'End of the first step; the others follow every step_s.';
COMMENT ON COLUMN transformer_forecasts.forecaster IS 'Who spoke: 0 as a week ago, 1 as the day before, 2 the regression.';
COMMENT ON COLUMN transformer_forecasts.paths IS 'Past days whose errors make the band and the chances.';
COMMENT ON COLUMN transformer_forecasts.p50 IS 'Apparent load per step, share of the rating; p10 and p90 hold 80 % of the past errors.';
COMMENT ON COLUMN transformer_forecasts.p_over IS 'Chance that the load is above the rating in the step, 0 to 1.';
COMMENT ON COLUMN transformer_forecasts.p_hot IS 'Chance that the hot spot has been above 140 C by the end of the step, 0 to 1.';
COMMENT ON COLUMN transformer_forecasts.hot_spot_c IS 'Hot spot at the end of each step with the load p50.';
COMMENT ON COLUMN transformer_forecasts.overload_chance IS 'Chance of an OVERLOAD alarm within the forecast; overload_at: when half of those paths have raised it.';

CREATE VIEW transformer_forecast_curve AS
SELECT t.transformer, f.made_at, f.first_end + make_interval(secs => f.step_s * (s.n - 1)) AS step_end,
       s.p10 * t.rated_kva AS p10_kva, s.p50 * t.rated_kva AS p50_kva, s.p90 * t.rated_kva AS p90_kva,
       s.p_over, s.p_hot, s.hot_spot_c, f.transformer_id
FROM transformer_forecasts f JOIN transformers t USING (transformer_id)
CROSS JOIN LATERAL unnest(f.p10, f.p50, f.p90, f.p_over, f.p_hot, f.hot_spot_c)
    WITH ORDINALITY AS s (p10, p50, p90, p_over, p_hot, hot_spot_c, n);
COMMENT ON VIEW transformer_forecast_curve IS 'The newest forecast of each transformer, a row a step, in kVA.';

CREATE TABLE customer_flexibility (
    slot integer NOT NULL,
    valid_from timestamptz NOT NULL,
    protected boolean NOT NULL,
    shift_kw real NOT NULL,
    avoid_kw real NOT NULL,
    limit_to_kw real,
    limited_at timestamptz,
    PRIMARY KEY (slot, valid_from)
);
COMMENT ON TABLE customer_flexibility IS 'What a customer (meter) has agreed to spare, from valid_from until the next row of the slot; nothing here: no flexibility, not protected.';
COMMENT ON COLUMN customer_flexibility.protected IS 'A load plan never touches this customer: hospitals, water, life support.';
COMMENT ON COLUMN customer_flexibility.shift_kw IS 'Power whose use may be moved to another time.';
COMMENT ON COLUMN customer_flexibility.avoid_kw IS 'Power that may be left out altogether.';
COMMENT ON COLUMN customer_flexibility.limit_to_kw IS 'Import may be limited to this much; NULL: may not be limited.';
COMMENT ON COLUMN customer_flexibility.limited_at IS 'When the customer was limited or disconnected last; NULL: never. Who was so least lately is first.';
