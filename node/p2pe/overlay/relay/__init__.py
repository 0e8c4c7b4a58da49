"""Circuit relay v2: blind byte pipes between peers who can't reach each other. Source: libp2p circuit-v2."""
