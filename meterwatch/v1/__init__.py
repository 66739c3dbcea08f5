"""Generated protobuf and gRPC stubs of proto/meterwatch/v1. Do not edit: `python -m meterwatch.devtools.stubs`."""
