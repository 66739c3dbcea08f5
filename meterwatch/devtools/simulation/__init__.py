"""Rules, alarm book and hub through a day drawn from a seed, in one thread and without input or output.

small_grid      feeders, transformers, meters and head-ends
told_day        what happens, the reads and events that say so, and what is therefore to be told
user_day        user rules for the days that have some
deliveries      how the day comes: plainly, or reordered, split, repeated, with crashes and a clock that is set
kept_in_memory  what is stored, and what the readers of storage answer
one_thread      desk, rules and evaluation of the service, driven step by step
listeners       subscribers and operators
laws            what must hold
one_day         a seed: both deliveries, compared with each other and with the truth
"""
