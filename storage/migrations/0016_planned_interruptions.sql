-- An interruption that begins within work on the meter or on what is above it was planned.

CREATE OR REPLACE FUNCTION interruption_planned(
    p_slot integer, p_transformer_id integer, p_feeder_id integer, p_from timestamptz)
RETURNS boolean LANGUAGE sql STABLE AS $$
SELECT EXISTS (
    SELECT FROM planned_works w
    WHERE w.cancelled_at IS NULL AND p_from >= w.from_at AND p_from < w.to_at AND w.to_at > p_from
      AND (w.asset_kind, w.asset_id) IN (('meter', p_slot), ('transformer', p_transformer_id), ('feeder', p_feeder_id)))
$$;
