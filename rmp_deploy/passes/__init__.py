"""Graph to graph, pure: each pass returns a new graph that computes the same."""
