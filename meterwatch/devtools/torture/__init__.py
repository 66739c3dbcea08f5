"""Kill the service and its database again and again under load, and prove that nothing acknowledged is lost or doubled.

town        what is sent: reads, corrections, repetitions and events as a pure function of seed and step
journal     what the senders and the subscriber wrote down, on files that no kill reaches
client      a process of its own: two head-ends and a subscriber over gRPC, with the journal
target      the service with its embedded PostgreSQL as a process that can be killed, and the kills
check       journal against database: reads, ledger, alarms, and meterwatch.soundness
controls    the service with a promise broken on purpose, which the check must find
run         cycles, recovery times, report: `make torture CYCLES=100 JSON=file`
"""
