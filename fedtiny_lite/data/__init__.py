"""Data sets, how they are split over clients, and the only door to torchvision."""
