"""The methods of the paper: what each does in a training step, one file a method."""
