"""The same methods on Flower: a ServerApp and a ClientApp around the round loop and the client's answer."""
