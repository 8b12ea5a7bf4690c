"""Images of models during and after training, logged to their MLflow runs."""
