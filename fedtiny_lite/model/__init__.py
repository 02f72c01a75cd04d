"""Networks, masks, masked training, and the cost model."""
