"""Choosing tokens: samplers, the generation loop, beam search, speculative decoding."""
