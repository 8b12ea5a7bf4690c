"""Pictures of trained models for their MLflow runs."""
