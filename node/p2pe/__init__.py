"""p2pe: a headless node for peer-to-peer encryption."""

__version__ = "0.1.0"
