"""What the recipe's stages are made of."""
