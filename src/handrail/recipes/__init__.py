"""One recipe a stage: its config at the top, then `build`, then `train`.  Recipes never import each other."""
