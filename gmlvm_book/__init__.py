"""What only the book and its experiments use: result files, and figures that answer to the pointer."""
