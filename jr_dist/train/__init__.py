"""The losses (Eqs. 2 and 4), the joint step, the loop and checkpoints."""
