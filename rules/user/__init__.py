"""Rules that engineers write: expressions over typed columns, held and kept firing in event time. Pure, no I/O."""
