"""A local page over all runs of a folder, live while they train. Nothing here imports torch."""
