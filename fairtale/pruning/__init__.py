"""Remove attention heads, feed-forward units and layers from trained transformers."""
