"""meterwatch: smart-meter read ingestion, validation, outage and overload alarms over TimescaleDB."""
