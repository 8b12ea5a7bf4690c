"""Parts of the pipeline, one package for each subject (data, models, metrics, ...), above the shared foundation."""
