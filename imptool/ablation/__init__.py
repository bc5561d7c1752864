"""A grid of trainings: which cells there are, one cell from training to figures, and what all of them say together."""
