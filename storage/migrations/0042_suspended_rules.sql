-- Rules that raised and stand aside, and what they have missed since.

CREATE TABLE suspended_rules (
    rule text NOT NULL,
    asset_kind text NOT NULL,
    since_at timestamptz NOT NULL,
    from_at timestamptz NOT NULL,
    error text NOT NULL,
    PRIMARY KEY (rule, asset_kind)
);
COMMENT ON TABLE suspended_rules IS 'Rules that raised an error of ours and are not asked until new rules are made: after a start, a change of the registry, or rules resume.';
COMMENT ON COLUMN suspended_rules.asset_kind IS 'Assets it judges; empty: several kinds.';
COMMENT ON COLUMN suspended_rules.from_at IS 'Nothing that ended later is judged by it.';

CREATE TABLE suspended_rules_missed (
    rule text NOT NULL,
    asset_kind text NOT NULL,
    asset_id integer NOT NULL,
    from_at timestamptz NOT NULL,
    PRIMARY KEY (rule, asset_kind, asset_id),
    FOREIGN KEY (rule, asset_kind) REFERENCES suspended_rules ON DELETE CASCADE
);
COMMENT ON TABLE suspended_rules_missed IS 'Assets of which something older than suspended_rules.from_at came or changed while the rule stood aside, and since when.';
