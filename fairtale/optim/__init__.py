"""Hooks into fairseq's training loop."""
