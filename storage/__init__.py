"""Everything that touches the database: schema, writer, readers, and the embedded TimescaleDB."""
