"""Models: any endpoint that speaks chat completions, and a built-in one that needs none."""
