"""From scores and samples to tables, pictures and the page that a person reads."""
