"""The NAT laboratory: network namespaces, nftables routers of every RFC 4787 kind, and a wire with delay and loss."""
