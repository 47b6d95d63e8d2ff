"""What a build says of itself: a statement of in-toto for each model, and a bill of materials."""
