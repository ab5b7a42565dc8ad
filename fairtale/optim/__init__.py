"""What optimization needs besides fairseq's own: moments of training at which things happen."""
