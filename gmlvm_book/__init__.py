"""What only the book and its experiments use: result files, a toy, schematics, figures that answer to the pointer."""
