"""What the models of a turn saw, asked for afterwards and held against what they were sent."""
