"""Files that users write beside their videos: CSV files, and lists with names of videos."""
