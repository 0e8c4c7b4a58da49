"""The node's own Kademlia core on an event heap: thousands of servers, an hour of virtual time, on one core.

What is the node's own: routing tables, lookups, record stores, time-outs, limits (p2pe.core.kademlia). What is
modelled: latency, silence of the dead, connection costs in bytes. Signatures aren't checked here (the store's
validator is an argument); everything else a server enforces is.
"""
