"""Tier 1's world: network, clock, entropy and disks that follow from a seed, for the production node in one process."""
