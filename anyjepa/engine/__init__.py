"""The loop: loading, optimiser, schedules, checkpoints, resume, logs. It knows no paper and no kind of data."""
