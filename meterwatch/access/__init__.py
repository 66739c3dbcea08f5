"""Who is calling, and what may they: identities, roles, districts, and the trail of what was done and refused.

Promises: every call goes through one gate (gate.py) with one table of what each may (methods.py); what neither names is
refused. Refuses to know how certificates come to the wire, and what the methods do.
"""
