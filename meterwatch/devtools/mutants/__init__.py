"""Would a test notice? One small thing of a kernel is made wrong at a time, and the tests that run it are asked.

- `changes`: what can be made wrong in a module, out of its syntax tree.
- `trial`: the tests with one module made wrong, in a process of their own that writes nowhere but its own directory.
- `run`: the sample, which tests run which line, the score: `make mutants`.
"""
