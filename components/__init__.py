"""What the pipeline is made of: rooms of nouns (data, models, ...) over shared tools and a common ground."""
