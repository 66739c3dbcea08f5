"""Tools for developers of meterwatch; nothing of the service imports them."""
