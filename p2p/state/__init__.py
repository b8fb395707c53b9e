"""What a network agrees on: signed logs, one a writer, and what they come to."""
