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
