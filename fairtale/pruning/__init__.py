"""Removal of attention heads, feed-forward units and layers from trained transformers."""
