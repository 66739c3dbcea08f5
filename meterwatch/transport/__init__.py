"""TLS: certificates and keys, whom they belong to, how those of a service change while it runs.

Refuses to know who may do what: it says who a certificate was issued to, no more.
"""
