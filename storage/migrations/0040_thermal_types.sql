-- Which thermal type a transformer has over time, and the air as it was forecast.

CREATE TABLE transformer_thermal_types (
    transformer_id integer NOT NULL,
    thermal_type text NOT NULL,
    valid_from timestamptz NOT NULL,
    valid_to timestamptz NOT NULL DEFAULT 'infinity',
    PRIMARY KEY (transformer_id, valid_from),
    CHECK (valid_from < valid_to)
);
COMMENT ON TABLE transformer_thermal_types IS 'Type whose thermal numbers a transformer has, by the name it has in the profile; without a row, the numbers of the profile.';

CREATE TABLE ambient_forecasts (
    area text NOT NULL,
    at timestamptz NOT NULL,
    celsius real NOT NULL CHECK (celsius BETWEEN -60 AND 70),
    recorded_at timestamptz NOT NULL,
    PRIMARY KEY (area, at)
);
CREATE INDEX ambient_forecasts_at ON ambient_forecasts (at);
COMMENT ON TABLE ambient_forecasts IS 'Temperature of the air as it was forecast last for that time; temperatures to come are reckoned with it, and nothing else.';
