"""What only the book and its experiments use: result files, a toy, schematics, figures that answer, notebooks for Colab."""
