"""What a network learns: the loss it is trained and scored by, and the metrics it is judged by."""
