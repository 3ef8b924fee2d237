"""Longer runs behind the book's claims. Each writes a small file under results/, which a chapter reads."""
