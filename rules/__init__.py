"""Streaming rules: pure vector kernels over slots; no I/O, no clock, no threads."""
