"""What users write beside their videos: lists, CSV files, and the names of videos in them."""
