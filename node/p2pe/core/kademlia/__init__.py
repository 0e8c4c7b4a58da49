"""Kademlia as pure state machines: the same code runs on libp2p streams, in the virtual network and on an event heap.

keyspace       ids, distances, where a record lives
diversity      how many peers of one network may stand together
timeouts       adaptive time-outs (RFC 6298)
routing_table  k-buckets with liveness and replacement caches
lookup         the iterative lookup over disjoint paths
record_store   what may be stored, for whom, for how long
rates          token buckets, one a peer

Sources: Maymounkov and Mazières, "Kademlia" (2002); Baumgart and Mies, "S/Kademlia" (2007); the libp2p kad-dht
specification for hashes and messages.
"""
