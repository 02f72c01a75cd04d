"""What a method is, what crosses between server and clients, and who may touch what."""
