"""Read and write video files. A picture is an image decoded from a file; a frame is a cropped and resized picture."""
