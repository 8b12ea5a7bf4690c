"""Report: tables, figures, clips, the HTML page and the model card, made from scores and samples."""
