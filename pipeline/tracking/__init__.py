"""MLflow's view of the models: store, runs, events, and `latent sync`. The only folder that imports mlflow or dvc.
May import data, startup, storage and errors. A failure in here never fails a training or an evaluation."""
