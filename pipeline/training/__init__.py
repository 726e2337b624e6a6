"""Training one model: config, schedules, batches, steps, the optimizer, the loop, checkpoints and outputs.
May import data, models, runtime, storage and errors; run.py alone imports params and tracking."""
