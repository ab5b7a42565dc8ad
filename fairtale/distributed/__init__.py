"""Training with the state of the model divided among processes, on torch's FSDP2."""
