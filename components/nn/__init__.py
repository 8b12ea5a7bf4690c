"""Network layers and losses shared by models, autoencoders and metrics."""
