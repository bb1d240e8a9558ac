"""The outer loop of a fit: passes over X until a stop rule is met, with history and checkpoints."""
