-- How the table reads keeps its rows, and the fence of those who write it without a unique index.

CREATE TABLE reads_layout (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    layout text NOT NULL DEFAULT 'rowstore' CHECK (layout IN ('rowstore', 'columnstore')),
    fence bigint NOT NULL DEFAULT 0,
    fence_holder uuid
);
INSERT INTO reads_layout DEFAULT VALUES;
COMMENT ON TABLE reads_layout IS 'How reads are kept: in rows under a unique index, or in the columnstore, where the service sees to it that a read exists once.';
COMMENT ON COLUMN reads_layout.fence IS 'Columnstore only: transactions that write reads hold it shared; raising it waits for them and shuts out the others.';
