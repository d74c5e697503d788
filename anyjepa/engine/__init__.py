"""The loop: loading, optimiser, schedules, checkpoints, resume, logs. Knows no paper and no kind of data."""
