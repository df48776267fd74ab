"""ATLAS: fine-tune one language model on many small, unreliable devices."""
