"""What only the book and its experiments use: result files, figures that answer to the pointer, notebooks for Colab."""
