"""What only the book and its experiments use: result files, a toy, schematics, live figures, notebooks for Colab."""
