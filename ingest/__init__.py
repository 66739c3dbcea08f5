"""The gRPC ingest endpoint: sessions, decoding, validation."""
