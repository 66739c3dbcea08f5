"""Load generation and benchmarks; sees only the public client and the stubs."""
